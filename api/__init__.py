"""The API: types and error kinds (leaves), sans-IO wire forms, RPC plumbing, and the HTTP server."""

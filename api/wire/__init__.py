"""Sans-IO forms of the wire and what both sides of it must agree on: stream frames, request heads that hijack, filters,
API versions, address pools. Bytes in, values out."""

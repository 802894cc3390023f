"""The HTTP API: an aiohttp server, routes by section of the v1.24 document, errors mapped in one place."""

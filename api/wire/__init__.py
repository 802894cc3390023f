"""Sans-IO forms of the wire: stream frames, request heads that hijack, filters, API versions. Bytes in, values out."""

"""One module for each area of v1.24 section 3: a Protocol of what it needs, and `routes(backend)`."""

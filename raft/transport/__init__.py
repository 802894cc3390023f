"""Messages between members over gRPC."""

"""gRPC between nodes, with MessagePack bodies typed by msgspec and our error kinds carried across."""

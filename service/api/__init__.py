"""The HTTP and gRPC role, in front of the queue. No torch here."""

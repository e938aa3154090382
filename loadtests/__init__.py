"""Measurements of the running service over HTTP, on the loopback."""

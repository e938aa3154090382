"""Training of the base, its plugins and the selector."""

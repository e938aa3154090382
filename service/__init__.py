"""Diff-Plugin Serve: restores photos from an image and a sentence."""

__version__ = "0.1.0"

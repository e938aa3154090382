"""Ablations of the paper and its rivals, trained at the scale of a small base."""

"""How good the restored photos and the plans are, against simple baselines."""

"""Step-level continuous batching of edits with different plugins. No queue and no HTTP here."""

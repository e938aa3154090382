"""The Plugin-Selector: from a sentence and an image to an ordered plan of plugins."""

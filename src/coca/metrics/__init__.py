"""Pure scores in NumPy."""

"""Scores in NumPy."""

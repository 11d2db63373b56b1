"""Whole runs, one function each."""

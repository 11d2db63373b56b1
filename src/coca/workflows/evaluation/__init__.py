"""Workflows that evaluate a model and report the results."""

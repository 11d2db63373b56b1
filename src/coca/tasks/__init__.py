"""Downstream problems and their scores."""

"""Calibration: match probabilities of hits, and the threshold for a match."""

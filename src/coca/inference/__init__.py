"""A loaded model for people."""

"""Pixels and words to tensors and back."""

"""Samples on disk to batches of tensors."""

"""Sampling order, batches and data workers: from sources to tensors."""

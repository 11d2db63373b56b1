"""Metrics in NumPy: captioning, retrieval, classification, VQA accuracy."""

"""Preprocessing: image transforms and augmentation, tokenizers, and video frames."""

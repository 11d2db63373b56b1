"""Contrastive Captioners (CoCa): search, captions and recognition with one image-text model."""

__version__ = "0.1.0"

"""Contrastive and captioning losses, and the collectives that they need."""

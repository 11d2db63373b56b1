"""Decoding of strangers' images in worker processes with limits of memory and time."""

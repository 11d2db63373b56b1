"""Decoding of untrusted images in worker processes with limits of memory and time."""

"""Emoji of several vendors as image-text data, from packages that anyone can install."""

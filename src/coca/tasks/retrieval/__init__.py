"""Retrieval tasks: by captions, keywords, synonyms and images, and a baseline of pixels."""

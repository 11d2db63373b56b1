"""Core utilities: configuration, plugin registry, errors, atomic files, prefetch, provenance."""

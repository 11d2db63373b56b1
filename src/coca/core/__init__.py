"""Configuration, registry, errors, files, progress, provenance."""

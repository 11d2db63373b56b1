"""Ground floor: configuration, registry, errors, files, progress, provenance."""

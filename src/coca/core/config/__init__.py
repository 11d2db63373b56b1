"""Configuration: recipes in YAML, overrides and defaults, checked into frozen pydantic models."""

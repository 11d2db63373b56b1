"""The demo and its photos."""

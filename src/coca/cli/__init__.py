"""The shell door: `coca ...`."""

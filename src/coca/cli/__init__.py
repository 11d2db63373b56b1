"""The shell door: `coca ...`. Torch and the like are imported inside commands only."""

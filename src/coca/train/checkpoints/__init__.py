"""Checkpoints: files, asynchronous saves, state of a run, and checks before a resume."""

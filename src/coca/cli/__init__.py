"""Command line, `coca ...`; torch is imported inside commands only."""

"""Data loading: sampling order, batch assembly and worker processes."""

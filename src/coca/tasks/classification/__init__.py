"""Classification tasks: zero-shot, by a trained head, and by linear probes."""

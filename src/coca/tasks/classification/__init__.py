"""Classification tasks: zero-shot, and by a trained head."""

"""Commands that make training data: `coca data`."""

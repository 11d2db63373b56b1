"""Image sources: entries with their etags, encoded images, and header metadata."""

"""Export of a collection with its model as a static page that searches in the browser."""

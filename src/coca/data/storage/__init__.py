"""Storage backends: byte ranges of local files, object stores and URLs, and a URL policy."""

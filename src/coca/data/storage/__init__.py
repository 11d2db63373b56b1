"""Byte ranges of local files, object stores and URLs, and which of them a table may name."""

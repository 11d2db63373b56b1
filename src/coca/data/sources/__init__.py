"""Data sources: folders, tables, tar shards, zip archives and videos, read as samples."""

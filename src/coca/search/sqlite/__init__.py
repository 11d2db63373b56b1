"""Store of collections in one SQLite file."""

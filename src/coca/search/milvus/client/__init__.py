"""Connections: Milvus Lite and servers, the lock of a Lite folder, the log of changes."""

"""Milvus client: connection, schema, rows, approximate nearest neighbor (ANN) search."""

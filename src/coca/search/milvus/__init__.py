"""One collection in Milvus: connection, schema, rows, approximate nearest neighbor search."""

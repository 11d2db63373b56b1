"""Vector search in SQLite and Milvus: indexing, querying and mining, without torch."""

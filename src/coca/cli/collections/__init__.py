"""Commands on Milvus collections: index, search, mine, serve, manage and migrate."""

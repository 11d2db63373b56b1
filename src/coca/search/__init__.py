"""Vector search on Milvus: indexing, querying and mining of embeddings. Imports no torch."""

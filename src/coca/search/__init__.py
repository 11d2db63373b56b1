"""Vectors and records in Milvus: index, query, mine. Imports no torch."""

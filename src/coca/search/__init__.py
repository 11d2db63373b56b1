"""Vectors and records in Milvus; knows no torch."""

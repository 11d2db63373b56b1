"""Adapters to other libraries: embeddings, vector store, reranker and benchmark interfaces."""

"""Transfer of collections: to other Milvus servers, and to other models."""

"""Index types of Milvus: parameters, choice of a type, capabilities of a server."""

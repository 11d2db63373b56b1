"""Open collections of the service: search engine, catalog in memory."""

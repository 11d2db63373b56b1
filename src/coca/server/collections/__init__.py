"""Open collections of the service: search in batches, catalog in memory."""

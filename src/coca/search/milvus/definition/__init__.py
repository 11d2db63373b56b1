"""Definition of collections: names, schema, settings, index builds, and the catalog."""

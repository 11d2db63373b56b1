"""Searches and changes from request bodies, and response bodies, shared by the routes."""

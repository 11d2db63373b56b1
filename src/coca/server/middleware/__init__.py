"""ASGI middleware: limits of requests, headers of responses, metrics for Prometheus."""

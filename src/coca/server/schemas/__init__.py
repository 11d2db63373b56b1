"""Request and response bodies of the service, checked by pydantic."""

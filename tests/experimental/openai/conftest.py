"""The service of the tests of `coca.server`, which includes the routes of plug-ins."""

from server.conftest import client, images, predictor, service, settings, uri

__all__ = ["client", "images", "predictor", "service", "settings", "uri"]

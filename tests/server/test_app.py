import logging

import pytest

pytest.importorskip("mcp", reason="the extra mcp is not installed")

from coca.server.app import create_app
from coca.server.service import Service


def test_the_application_leaves_the_logging_of_its_process_alone(service: Service) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    create_app(service, service.settings)
    assert (root.handlers, root.level) == before

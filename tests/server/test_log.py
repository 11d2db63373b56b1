"""What a real `coca serve` writes to its log."""

from pathlib import Path

import pytest

from coca.predict.torch_predictor import TorchPredictor
from server_process import serving


@pytest.mark.service
def test_wrong_filters_of_requests_are_not_logged(
    uri: str, predictor: TorchPredictor, tmp_path: Path
) -> None:
    options = ("--collection", "pictures", "--model", predictor.source)
    with serving("--uri", uri, *options, cache=tmp_path) as running:
        # Each would be a traceback of Milvus.
        for filter in ("nosuch(width) > 1", "width > 1.5 and caption > 3", "1 == "):
            answer = running.post("/v1/search", {"text": "a cat", "filter": filter})
            assert answer.status == 400, answer.body
    assert running.log
    assert "Traceback" not in "".join(running.log)

from pathlib import Path

import pytest

from coca.core.errors import ModelError
from coca.experimental.adapters.models import as_predictor
from coca.inference.predictor import Predictor


def test_a_loaded_model_is_used_as_it_is_and_a_folder_is_loaded(
    folder: Path, predictor: Predictor
) -> None:
    assert as_predictor(predictor) is predictor
    assert as_predictor(folder, device="cpu").fingerprint == predictor.fingerprint
    with pytest.raises(ModelError, match="nowhere is not a model folder"):
        as_predictor("nowhere")

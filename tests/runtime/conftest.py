"""Where torch is not installed, tests that compare with it are not collected."""

from importlib.util import find_spec

WITH_TORCH = [
    "test_base_predictor.py",
    "test_decoding.py",
    "test_preprocess.py",
    "test_text_embedder.py",
]
collect_ignore = [] if find_spec("torch") else WITH_TORCH

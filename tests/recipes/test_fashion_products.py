import json
import zipfile
from pathlib import Path
from typing import Any

from coca.data.sources.factory import open_source
from coca.data.sources.tar.shards import ShardsConfig
from fashion_products import main
from tiny_data import image_bytes


def captions_of(tmp_path: Path, **fields: str) -> tuple[tuple[str, ...], Any]:
    row = {"gender": "Men", "articleType": "Shirts", "baseColour": "Navy Blue", "name": "Turtle  4"}
    with zipfile.ZipFile(tmp_path / "products.zip", "w") as archive:
        archive.writestr("images/1.png", image_bytes(1))
        archive.writestr("meta.jsonl", json.dumps({"image": "images/1.png", **row, **fields}))
    main([f"{tmp_path}/out", f"{tmp_path}/products.zip"])
    sample = open_source(ShardsConfig(path=f"{tmp_path}/out/products-*.tar")).read(0)
    return sample.captions, sample.metadata["keywords"]


def test_captions_are_of_color_kind_and_wearer_and_the_name_is_a_keyword(tmp_path: Path) -> None:
    captions, keywords = captions_of(tmp_path)
    assert captions == ("navy blue shirts", "navy blue shirts for men")
    assert keywords == ["Turtle 4"]

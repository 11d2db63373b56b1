"""Recompute the arithmetic of docs/scale.md from the inputs of the page."""

import math
import re
from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = " ".join((DOCS / "scale.md").read_text(encoding="utf-8").split())


def rows_below(heading: str) -> list[list[str]]:
    text = (DOCS / "scale.md").read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    lines = text.partition("\n## ")[0].splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| ")
    ][1:]


def number(text: str) -> float:
    return float(text.replace(",", ""))


@pytest.fixture(scope="module")
def inputs() -> dict[str, float]:
    return {name: number(value) for name, value, *_ in rows_below("Inputs")}


def test_hours_and_bytes_of_embedding_follow_from_the_inputs(inputs: dict[str, float]) -> None:
    pictures = inputs["images"]
    rate = inputs["images per second of an accelerator"]
    hours = pictures / rate / 3600
    raw = inputs["numbers in a vector"] * 4
    row = inputs["vectors of an image"] * raw + inputs["bytes of other columns"]
    tar = inputs["images in a tar"]
    read = inputs["accelerators"] * rate * inputs["bytes of an image"]
    assert f"{pictures / tar:,.0f} tars" in PAGE
    assert f"{hours:.0f} accelerator hours: {hours / inputs['accelerators']:.1f} hours" in PAGE
    assert f"The tars hold {pictures * inputs['bytes of an image'] / 1e12:.0f} TB" in PAGE
    assert f"read {read / 1e9:.1f} GB a second" in PAGE
    assert f"A tar is {tar / rate:.1f} seconds" in PAGE
    assert f"2 vectors of {raw:,.0f} bytes" in PAGE
    assert f"{pictures * row / 1e12:.1f} TB of Parquet" in PAGE
    assert f"{tar * row / 1e6:.0f} MB a tar" in PAGE


def test_hours_and_dollars_of_loading_follow_from_the_inputs(inputs: dict[str, float]) -> None:
    pictures = inputs["images"]
    inserting = pictures / inputs["rows per second of one inserting client"] / 3600
    share = pictures / 10_000_000 * inputs["numbers in a vector"] / 768
    building = inputs["core hours to index 10M vectors of 768"] * share
    assert f"needs {inserting:.0f} hours for a billion" in PAGE
    assert f"20 million rows ({inserting / 50:.1f} hours)" in PAGE
    remembered = 20_000_000 * inputs["bytes that `coca index` remembers of a record"]
    assert f"{remembered / 1e9:.0f} GB for 20 million" in PAGE
    assert f"about {building:,.0f} core hours for a billion" in PAGE
    both = inputs["vectors of an image"] * building
    assert f"{both / 256:.1f} hours on 256 cores" in PAGE
    embedding = pictures / inputs["images per second of an accelerator"] / 3600
    for hours, price, unit in (
        (embedding, inputs["dollars of an accelerator hour"], "accelerator"),
        (both, inputs["dollars of a core hour"], "core"),
    ):
        found = re.search(rf"([\d,]+) {unit} hours[a-z ]* \(\$([\d,]+)\)", PAGE)
        assert found
        assert number(found[1]) == pytest.approx(hours, rel=0.005)
        assert number(found[2]) == pytest.approx(hours * price, rel=0.005)


def test_memory_and_nodes_of_each_index_follow_from_its_bytes(inputs: dict[str, float]) -> None:
    numbers = inputs["numbers in a vector"]
    graph = inputs["graph bytes of a vector, HNSW with M 16"]
    expected = {
        "HNSW": 4 * numbers + graph,
        "HNSW on 16-bit vectors": 2 * numbers + graph,
        "HNSW_SQ, SQ8": numbers + graph,
        "IVF_SQ8": numbers + 8,
        # A bit a number, 16 bytes of factors and id, and the refining codes.
        "IVF_RABITQ, SQ8 refined": numbers / 8 + 16 + numbers,
        "IVF_PQ, m 64": 64 + 8,
        "DISKANN": 256 + 205,
        "GPU_CAGRA": 1.8 * 4 * numbers,
    }
    found = {name: cells for name, *cells in rows_below("Memory by index type")}
    assert found.keys() == expected.keys()
    for name, vector_bytes in expected.items():
        stated, ram, nodes, *_ = found[name]
        assert number(stated) == pytest.approx(vector_bytes, abs=1), name
        total = vector_bytes * inputs["images"]
        assert ram == f"{total / 1e12:.2f}", name
        node = 80 if name == "GPU_CAGRA" else inputs["gigabytes of a node for vectors"]
        assert int(nodes) == math.ceil(total / 1e9 / node), name


def test_the_values_for_helm_are_those_of_the_plan(inputs: dict[str, float]) -> None:
    values = yaml.safe_load((DOCS / "scale-values.yaml").read_text(encoding="utf-8"))
    (nodes,) = (
        int(cells[3])
        for cells in rows_below("Memory by index type")
        if cells[0].startswith("HNSW_SQ")
    )
    replicas = 2
    assert values["queryNode"]["replicas"] == nodes * inputs["vectors of an image"] * replicas
    assert f"{values['queryNode']['replicas']} query nodes" in PAGE
    assert f"{values['dataNode']['replicas']} data nodes of 16 cores" in PAGE
    assert values["dataNode"]["replicas"] * 16 == 256
    for name in ("proxy", "streamingNode"):
        assert values[name]["replicas"] == 2
    assert yaml.safe_load(values["extraConfigFiles"]["user.yaml"])

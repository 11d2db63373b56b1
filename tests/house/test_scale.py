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
    images = inputs["images"]
    rate = inputs["images per second and accelerator"]
    hours = images / rate / 3600
    raw = inputs["dimensions of a vector"] * 4
    row = inputs["vectors per image"] * raw + inputs["bytes of the other columns, per record"]
    tar = inputs["images per tar"]
    read = inputs["accelerators"] * rate * inputs["bytes per image"]
    assert f"{images / tar:,.0f} tars" in PAGE
    assert f"{hours:.0f} accelerator hours: {hours / inputs['accelerators']:.1f} hours" in PAGE
    assert f"The tars contain {images * inputs['bytes per image'] / 1e12:.0f} TB" in PAGE
    assert f"read {read / 1e9:.1f} GB per second" in PAGE
    assert f"A tar takes {tar / rate:.1f} seconds" in PAGE
    assert f"2 vectors of {raw:,.0f} bytes" in PAGE
    assert f"{images * row / 1e12:.1f} TB of Parquet" in PAGE
    assert f"{tar * row / 1e6:.0f} MB per tar" in PAGE


def test_hours_and_dollars_of_loading_follow_from_the_inputs(inputs: dict[str, float]) -> None:
    images = inputs["images"]
    inserting = images / inputs["rows per second of one inserting client"] / 3600
    share = images / 10_000_000 * inputs["dimensions of a vector"] / 768
    building = inputs["core hours to index 10M vectors of 768 dimensions"] * share
    assert f"is {inserting:.0f} hours for a billion" in PAGE
    assert f"20 million rows ({inserting / 50:.1f} hours)" in PAGE
    remembered = 20_000_000 * inputs["bytes that `coca index` keeps in memory per record"]
    assert f"{remembered / 1e9:.0f} GB for 20 million" in PAGE
    assert f"about {building:,.0f} core hours for a billion" in PAGE
    both = inputs["vectors per image"] * building
    assert f"{both / 256:.1f} hours on 256 cores" in PAGE
    embedding = images / inputs["images per second and accelerator"] / 3600
    for hours, price, unit in (
        (embedding, inputs["dollars per accelerator hour"], "accelerator"),
        (both, inputs["dollars per core hour"], "core"),
    ):
        found = re.search(rf"([\d,]+) {unit} hours[a-z ]* \(\$([\d,]+)\)", PAGE)
        assert found
        assert number(found[1]) == pytest.approx(hours, rel=0.005)
        assert number(found[2]) == pytest.approx(hours * price, rel=0.005)


def test_memory_and_nodes_of_each_index_follow_from_its_bytes(inputs: dict[str, float]) -> None:
    dimensions = inputs["dimensions of a vector"]
    graph = inputs["graph bytes per vector, HNSW with M 16"]
    expected = {
        "HNSW": 4 * dimensions + graph,
        "HNSW on 16-bit vectors": 2 * dimensions + graph,
        "HNSW_SQ, SQ8": dimensions + graph,
        "IVF_SQ8": dimensions + 8,
        # A bit per dimension, 16 bytes of factors and id, and the refinement codes.
        "IVF_RABITQ, SQ8 refined": dimensions / 8 + 16 + dimensions,
        "IVF_PQ, m 64": 64 + 8,
        "DISKANN": 256 + 205,
        "GPU_CAGRA": 1.8 * 4 * dimensions,
    }
    found = {name: cells for name, *cells in rows_below("Memory by index type")}
    assert found.keys() == expected.keys()
    for name, vector_bytes in expected.items():
        stated, ram, nodes, *_ = found[name]
        assert number(stated) == pytest.approx(vector_bytes, abs=1), name
        total = vector_bytes * inputs["images"]
        assert ram == f"{total / 1e12:.2f}", name
        node = 80 if name == "GPU_CAGRA" else inputs["gigabytes per node for vectors"]
        assert int(nodes) == math.ceil(total / 1e9 / node), name


def test_the_values_for_helm_are_those_of_the_plan(inputs: dict[str, float]) -> None:
    values = yaml.safe_load((DOCS / "scale-values.yaml").read_text(encoding="utf-8"))
    (nodes,) = (
        int(cells[3])
        for cells in rows_below("Memory by index type")
        if cells[0].startswith("HNSW_SQ")
    )
    replicas = 2
    assert values["queryNode"]["replicas"] == nodes * inputs["vectors per image"] * replicas
    assert f"{values['queryNode']['replicas']} query nodes" in PAGE
    assert f"{values['dataNode']['replicas']} data nodes of 16 cores" in PAGE
    assert values["dataNode"]["replicas"] * 16 == 256
    for name in ("proxy", "streamingNode"):
        assert values[name]["replicas"] == 2
    assert yaml.safe_load(values["extraConfigFiles"]["user.yaml"])

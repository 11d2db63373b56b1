"""Run the package with the lowest versions of its dependencies that pyproject.toml allows.

    python tests/lowest.py constraints    prints `NAME==FLOOR` for each dependency of the extras
    python tests/lowest.py smoke          trains, captions, embeds and searches at tiny size

`make test-lowest` does both, the second in an environment made of the first. A floor that fails is
raised until it works.
"""

import json
import re
import sys
import tempfile
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
EXTRAS = (
    "data",
    "hub",
    "milvus",
    "milvus-lite",
    "report",
    "serve",
    "torch",
    "train",
    "video",
    "vqa",
)

RECIPE = """
threads: 1
model:
  image: {image_size: 32, patch_size: 8, width: 64, layers: 1, heads: 2, mlp_width: 64}
  text:
    {vocab_size: 300, context_length: 16, width: 64, heads: 2, mlp_width: 64, unimodal_layers: 1,
     multimodal_layers: 1}
  pooler: {captioning_queries: 4, heads: 2}
  embed_dim: 32
data: {sources: [], loader: {batch_size: 4}}
train: {steps: 2, precision: bf16, trackers: [jsonl, tensorboard]}
"""


def lower_bounds() -> dict[str, str]:
    """The lowest allowed version of each dependency of the package and of `EXTRAS`."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in EXTRAS:
        wanted += project["optional-dependencies"][extra]
    # An extra may include another one of `EXTRAS`.
    own = f"{project['name']}["
    return dict(_floor(one) for one in wanted if not one.startswith(own))


def _floor(requirement: str) -> tuple[str, str]:
    found = re.match(r"([\w.-]+)\s*(?:>=|==)\s*([\w.]+)", requirement)
    if found is None:
        raise SystemExit(f"{requirement!r} has no lowest version; write NAME>=VERSION")
    return found[1], found[2]


def smoke(folder: Path) -> None:
    """Use each dependency once, by the commands that users type."""
    photos = folder / "photos"
    table = write_data(photos)
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    sources = f"data.sources=[{{kind: folder, path: {photos}}}, {{kind: manifest, path: {table}}}]"
    for name in ("adafactor", "muon", "adamw"):
        settings = (f"run={folder / name}", f"train.optimizer.name={name}")
        coca("pretrain", str(recipe), sources, *settings)
    model, photo = ("--model", str(folder / "muon")), str(photos / "0.png")
    coca("caption", photo, *model)
    coca("embed", photo, "--out", str(folder / "vectors.npy"), *model)
    here = ("--uri", str(folder / "search.db"))
    coca("index", str(photos), *model, *here)
    coca("search", "a square", *here)
    coca("search", "square", "--hybrid", *here)
    coca("duplicates", *here)
    coca("migrate", here[1], f"milvus-lite:{folder / 'milvus.db'}")
    serve(folder, photo)
    data = ("data.kind=folder", f"data.path={photos}")
    coca("evaluate", *model[1:], "retrieval", "captioning", *data, "-o", str(folder / "scores"))
    assert (folder / "scores" / "report.html").exists(), "no page was written"
    film(folder)
    for command in ((), ("search",), ("config", "keys")):
        coca(*command, "--help")


def write_data(photos: Path) -> Path:
    """Eight images with captions next to them, and a Parquet table that names them."""
    import pyarrow as pa
    from PIL import Image
    from pyarrow import parquet

    photos.mkdir()
    rows = []
    for number in range(8):
        name = photos / f"{number}.png"
        Image.new("RGB", (40, 40), (30 * number, 255 - 30 * number, 90)).save(name)
        name.with_suffix(".txt").write_text(f"square number {number}", encoding="utf-8")
        rows.append({"image": name.name, "caption": f"square number {number}"})
    parquet.write_table(pa.Table.from_pylist(rows), photos / "all.parquet")
    return photos / "all.parquet"


def serve(folder: Path, photo: str) -> None:
    """Search, add and delete by a real service, which a page of another site cannot."""
    sys.path.append(str(Path(__file__).parent / "support"))
    from server_process import data_uri, serving

    image = {"image": data_uri(Path(photo).read_bytes())}
    with serving("--uri", str(folder / "search.db"), cache=folder / "cache") as service:
        hits = service.post("/v1/search", image).json()["hits"]
        assert len(hits) == 8, hits
        id = hits[0]["id"]
        body = json.dumps({"ids": [id]}).encode()
        for headers in ({}, {"Origin": "https://evil.example", "Content-Type": "application/json"}):
            answer = service.request("PATCH", "/v1/items", body, headers)
            assert answer.status in (403, 422), (headers, answer.body)
        deleted = service.request("DELETE", f"/v1/items/{id}").json()
        assert deleted == {"missing": [], "ids": [id]}
        assert service.post("/v1/items", image).status == 201
        faults = service.post("/v1/search", {"text": 1, "limit": 0})
        assert faults.status == 422, faults.body
        assert service.get("/metrics").status == 200
    sys.stdout.write("coca serve: 0\n")


def film(folder: Path) -> None:
    """Write a video and caption it."""
    import av
    import numpy as np

    path = folder / "film.mp4"
    with av.open(str(path), "w") as made:
        stream = made.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 64
        for level in range(8):
            pixels = np.full((64, 64, 3), 30 * level, np.uint8)
            made.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        made.mux(stream.encode())
    coca("caption", str(path), "--model", "everyday")


def coca(*words: str) -> None:
    """Run a command in this process."""
    from typer.testing import CliRunner

    from coca.cli.app import app

    result = CliRunner().invoke(app, list(words))
    sys.stdout.write(f"coca {' '.join(words[:1])}: {result.exit_code}\n")
    if result.exit_code:
        raise SystemExit(result.output) from result.exception


def main() -> None:
    """Do what the command line asks for."""
    match sys.argv[1:]:
        case ["constraints"]:
            sys.stdout.writelines(f"{name}=={floor}\n" for name, floor in lower_bounds().items())
        case ["smoke"]:
            with tempfile.TemporaryDirectory() as folder:
                smoke(Path(folder))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()

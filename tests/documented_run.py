"""Every documented command, run in a copy of the clone as a new user would: `make test-docs`.

The pages come in the order in which they are read, so that each command has the steps before it.
What users bring (photos, tables, tars, data sets) is made here, small. Trainings take two steps.
`DOCS_FOLDER=FOLDER` keeps the copy, and goes on in it.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from coca.model.shipped import shipped
from documented import COMMANDS, ROOT, Command, name_of
from tiny_data import image_bytes
from tiny_datasets import make_tar
from tiny_model import write_model
from tiny_openclip import WEIGHTS, write_open_clip
from tiny_video import video

FIRST = ("README.md", "index.md", "data.md", "training.md", "indexing.md", "search.md", "milvus.md")

LEFT_OUT = {
    r"--format onnx": "needs the extra onnx",
    r"recordings": "runs in `make test-experimental`",
    r"siglip2": "fetches weights of a gigabyte",
    r"--ocr": "needs the extra ocr",
    r"frozen.encoder": "needs weights of a package that no command installs",
    r"(openclip|hf|st):|--push": "fetches weights of a gigabyte, or uploads",
    r"^(git|pip|\.venv|helm|torchrun) ?": "changes clone or environment, or needs a cluster",
    r"http://": "needs a Milvus server, with which tests/search runs the same",
    r"^sqlite3 ": "needs the program sqlite3",
    r"^make (?!demo)": "a target of this project's own checks",
}

INSTEAD = {
    "make demo": "coca demo",
    ".venv/bin/coca serve --uri runs/demo/pictures.db --open": "coca serve "
    "--uri runs/demo/pictures.db",
    "make demo FROM_SCRATCH=1": "python recipes/data/emoji_drawings.py "
    "runs/from-scratch/shards/twemoji && coca pretrain recipes/pretrain/emoji.yaml",
}

SHORT = "train.steps=2 train.schedule.warmup=0 train.save_every=2 data.loader.workers=0"


def in_order() -> list[Command]:
    def position(command: Command) -> int:
        name = command.page.name
        return FIRST.index(name) if name in FIRST else len(FIRST)

    return sorted(COMMANDS, key=position)


def reason_to_leave_out(command: Command) -> str:
    text = INSTEAD.get(command.text, command.text)
    reasons = (why for pattern, why in LEFT_OUT.items() if re.search(pattern, text))
    return next(reasons, "")


def shortened(text: str) -> str:
    return re.sub(r"coca (pretrain|finetune) [^&]*", rf"\g<0> {SHORT} ", text)


def write_photos(folder: Path, count: int, *, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        (folder / f"{number}.jpg").write_bytes(image_bytes(number, form="JPEG", side=96))
        words = {"caption": f"a red car {number}", "label": ("cat", "dog")[number % 2]}
        (folder / f"{number}.json").write_text(json.dumps(words))


def write_classes(folder: Path, *, first: int = 0) -> None:
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(first, first + 20):
            content = image_bytes(number + 100 * (label == "dog"), form="JPEG", side=64)
            (folder / label / f"{number}.jpg").write_bytes(content)


def write_table_zip(path: Path, rows: list[dict[str, object]], column: str, *, width: int) -> None:
    import io

    import numpy as np
    from PIL import Image

    with zipfile.ZipFile(path, "w") as file:
        for number, row in enumerate(rows):
            pixels = np.random.default_rng(number).integers(0, 256, (64, width, 3), np.uint8)
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            file.writestr(str(row[column]), stream.getvalue())
        file.writestr("meta.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def write_data_sets(data: Path) -> None:
    """Small data sets in the layout that the heads of the recipes describe."""
    data.mkdir(parents=True)
    for part in ("train", "val"):
        with ShardWriter(data / "flickr8k", name=part) as writer:
            for number in range(140):
                captions = tuple(f"a dog {word} {number}" for word in ("runs", "plays", "sits"))
                writer.write(
                    Sample(f"{part}{number}", image_bytes(number, side=96), captions=captions)
                )
    rows: list[dict[str, object]] = [
        {"image": f"{n}.png", "label": ("tench", "church")[n % 2], "split": split}
        for split, numbers in (("train", range(140)), ("val", range(140, 160)))
        for n in numbers
    ]
    write_table_zip(data / "imagenette_96.zip", rows, "image", width=64)
    strips: list[dict[str, object]] = [
        {"strip": f"{actor}-{label}.png", "label": label, "actor": actor}
        for actor in range(9)
        for label in ("bend", "jack", "wave1", "wave2")
    ]
    write_table_zip(data / "weizmann_64.zip", strips, "strip", width=1024)
    for table, folder in (("train", "train"), ("validate", "val")):
        (data / "kinetics400" / folder).mkdir(parents=True)
        with (data / "kinetics400" / f"{table}.csv").open("w", newline="") as file:
            writer_of_rows = csv.writer(file)
            writer_of_rows.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
            for number in range(4):
                label = ("juggling", "running")[number % 2]
                writer_of_rows.writerow([label, f"id{number}", 1, 3, folder])
                clip = data / "kinetics400" / folder / f"id{number}_000001_000003.mp4"
                clip.write_bytes(video(frames=10, colour=(60 * number, 20, 90)))


def write_what_users_bring(root: Path, home: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    write_photos(root / "photos", 8)
    shutil.copy(root / "photos" / "0.jpg", root / "photos" / "cat.jpg")
    words = {"caption": "a cat", "label": "cat", "year": 2021, "tags": ["holiday"]}
    (root / "photos" / "cat.json").write_text(json.dumps(words))
    write_photos(root / "test-photos", 3, first=20)
    write_photos(home / "Pictures", 3, first=30)
    write_photos(home / "photos", 140)
    for number, name in enumerate(("photo.jpg", "holiday.jpg", "drawing.png")):
        (root / name).write_bytes(image_bytes(40 + number, side=96))
    for folder, name in (("clips", "clip.mp4"), ("holidays", "trip.mp4"), (".", "clip.mp4")):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / name).write_bytes(video(frames=60))
    write_classes(root / "train")
    write_classes(root / "val", first=200)
    for folder, count in (("shards", 128), ("more", 2)):
        with ShardWriter(root / folder, name="x", samples_per_shard=1) as writer:
            for number in range(count):
                writer.write(Sample(f"{folder}{number}", image_bytes(number), captions=("a car",)))
        for number, tar in enumerate(sorted((root / folder).glob("*.tar"))):
            tar.with_name(tar.name + ".idx").unlink(missing_ok=True)
            tar.rename(root / folder / f"{number:05d}.tar")
    # As img2dataset writes them.
    files: dict[str, bytes] = {}
    for number in range(140):
        key, text = f"{number:09d}", f"a car {number}"
        files[f"{key}.jpg"] = image_bytes(number, form="JPEG", side=64)
        files[f"{key}.txt"] = text.encode()
        files[f"{key}.json"] = json.dumps({"key": key, "caption": text}).encode()
    (root / "laion").mkdir()
    make_tar(root / "laion" / "00000.tar", files)
    rows = [{"image": f"photos/{number}.jpg", "caption": f"car {number}"} for number in range(4)]
    (root / "table.csv").write_text(
        "image,caption\n" + "".join(f"{row['image']},{row['caption']}\n" for row in rows)
    )
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), root / "rows.parquet")
    answers = ({"question": "what is it?", "answer": f"car {at % 2}"} for at in range(len(rows)))
    asked = [row | answer for row, answer in zip(rows, answers, strict=True)]
    (root / "queries.json").write_text('{"a lighthouse": [], "a car": [], "a giraffe": []}')
    (root / "keys.json").write_text('{"a-long-random-key": {"name": "anna"}}')
    (root / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked * 20))
    write_open_clip(root / "theirs")
    for file in (root / "theirs").iterdir():
        shutil.copy(file, root / file.name)
    assert (root / WEIGHTS).exists()
    for name in ("newer", "one", "two"):
        write_model(root / "runs" / name)
    for name in ("before", "after"):
        shutil.copytree(shipped()["everyday"], root / "runs" / name)
    write_data_sets(root / "data")
    (home / "datasets").symlink_to(root / "data")


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git has or would add, with what users bring next to it."""
    kept = os.environ.get("DOCS_FOLDER")
    base = Path(kept).absolute() if kept else tmp_path_factory.mktemp("docs")
    root = base / "coca-captioners"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    if not (base / "home" / "datasets").exists():
        write_what_users_bring(root, base / "home")
    return root


def test_nothing_is_left_out_for_a_reason_that_is_gone() -> None:
    texts = [command.text for command in COMMANDS]
    assert all(any(re.search(pattern, text) for text in texts) for pattern in LEFT_OUT)
    assert set(INSTEAD) <= {*texts}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", in_order(), ids=name_of)
def test_a_documented_command_runs(command: Command, clone: Path) -> None:
    if reason := reason_to_leave_out(command):
        pytest.skip(reason)
    text = shortened(INSTEAD.get(command.text, command.text))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("COCA_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(clone / "src"),
        "HOME": str(clone.parent / "home"),
        "OMP_NUM_THREADS": "1",
    }
    shell, stays = ["bash", "-c", text], text.startswith("coca serve")
    if stays or "--watch" in text:  # until Ctrl-C
        shell = ["timeout", "--preserve-status", "--signal=INT", "60", *shell]
    done = subprocess.run(shell, cwd=clone, env=environment, capture_output=True, text=True)
    stopped_by_ctrl_c = 130
    expected = stopped_by_ctrl_c if stays else 0
    assert done.returncode == expected, f"{text}\n{done.stderr}"

"""Data sets small enough for a test, in published formats: folders, COCO, tars, questions."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coca.data.sample import Sample
from coca.data.sources.annotated import AnnotationsConfig
from coca.data.sources.folder import FolderConfig
from coca.data.sources.table_source import ManifestConfig
from tiny_data import image_bytes


def write_folder(root: Path, samples: Sequence[Sample]) -> FolderConfig:
    """Each sample as an image and a JSON sidecar."""
    for sample in samples:
        path = root / f"{sample.key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample.image)
        words = {"captions": list(sample.captions), "labels": list(sample.labels)}
        path.with_suffix(".json").write_text(json.dumps(words))
    return FolderConfig(path=str(root))


FILES = {
    "a.jpg": b"picture",
    "a.txt": b"one",
    "a.json": b"{}",
    "./deep/b.PNG": b"other",
    "deep/b.cls": b"7",
    "deep/b.seg.png": b"mask",
    "readme": b"?",
}


def make_tar(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        folder = tarfile.TarInfo("deep")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items() if isinstance(files, dict) else files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    path.write_bytes(stream.getvalue())
    return stream.getvalue()


ANSWERS = ("yes", "no", "red", "2")


def lines(rows: Sequence[Any]) -> str:
    """JSON lines; a text is kept as it is."""
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def write_vqa(root: Path, *, part: str = "val2014") -> AnnotationsConfig:
    """Two questions to each image, each answered by ten people of whom three disagree."""
    (root / part).mkdir(parents=True)
    asked, notes = [], []
    for number in range(8):
        image = number // 2
        answer = ANSWERS[number % len(ANSWERS)]
        others = ("maybe", "two dogs", "a red one")
        asked.append({"question_id": number, "image_id": image, "question": f"what is {number}?"})
        notes.append(
            {
                "question_id": number,
                "question_type": "what is",
                "answer_type": "yes/no" if answer in ("yes", "no") else "other",
                "answers": [
                    {"answer_id": number, "answer": given}
                    for number, given in enumerate([answer] * 7 + list(others), start=1)
                ],
            }
        )
        (root / part / f"COCO_{part}_{image:012d}.jpg").write_bytes(image_bytes(image, form="JPEG"))
    head = {"data_type": "mscoco", "data_subtype": part}
    (root / "questions.json").write_text(json.dumps(head | {"questions": asked}))
    (root / "annotations.json").write_text(json.dumps({"annotations": notes}))
    paths = (str(root / "questions.json"), str(root / "annotations.json"))
    return AnnotationsConfig(kind="vqa", path=paths, images=str(root / part))


def write_questions(root: Path) -> ManifestConfig:
    """Two questions to each image of a table, each with one answer."""
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(8):
        image = f"{number // 2}.png"
        (root / image).write_bytes(image_bytes(number // 2))
        question = f"what is {number}"
        answer = ANSWERS[number % 4]
        rows.append({"key": str(number), "image": image, "question": question, "answer": answer})
    (root / "questions.jsonl").write_text(lines(rows))
    return ManifestConfig(path=str(root / "questions.jsonl"))


def write_snli_ve(root: Path) -> AnnotationsConfig:
    (root / "flickr30k_images").mkdir(parents=True)
    verdicts = ("entailment", "neutral", "contradiction")
    rows = []
    for number in range(6):
        image = 1000 + number // 3
        rows.append(
            {
                "Flickr30K_ID": str(image),
                "gold_label": verdicts[number % 3],
                "pairID": f"{image}.jpg#0r{number}",
                "sentence1": "A premise.",
                "sentence2": f"Hypothesis {number}. ",
            }
        )
        file = root / "flickr30k_images" / f"{image}.jpg"
        file.write_bytes(image_bytes(image, form="JPEG"))
    path = root / "snli_ve_train.jsonl"
    path.write_text(lines(rows))
    return AnnotationsConfig(kind="snli_ve", path=str(path), images=str(root / "flickr30k_images"))


def write_nlvr2(root: Path, *, numbered: bool = True) -> AnnotationsConfig:
    """Two pairs to each sentence; training sets have their photos in numbered folders."""
    rows = []
    for number in range(8):
        group, pair = divmod(number, 2)
        row = {
            "identifier": f"train-{group}-{pair}-0",
            "sentence": f"Sentence {group} is so. ",
            "label": ("True", "False")[(number + group) % 2],
            "directory": group,
        }
        folder = root / "images" / (str(group) if numbered else "")
        folder.mkdir(parents=True, exist_ok=True)
        for side in range(2):
            # Against their names, some of the photos are JPEG.
            content = image_bytes(2 * number + side, form=("PNG", "JPEG")[side])
            (folder / f"train-{group}-{pair}-img{side}.png").write_bytes(content)
        rows.append(row)
    (root / "train.json").write_text(lines(rows))
    return AnnotationsConfig(
        kind="nlvr2", path=str(root / "train.json"), images=str(root / "images")
    )

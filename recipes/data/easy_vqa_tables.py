"""Write the questions of easy-VQA as tables for `recipes/finetune/easy_vqa.yaml`.

    pip install 'coca-captioners[vqa]'
    python recipes/data/easy_vqa_tables.py runs/easy-vqa

The pip package easy-vqa contains 5,000 drawings of one coloured shape each and 48,248 questions.
`train.jsonl` and `test.jsonl` have one row for each question; the images stay in the package.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from coca.core.errors import DataError
from coca.core.extras import require
from coca.core.files.atomic import write_atomic

PARTS = ("train", "test")


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each question of one part, in the order of its `questions.json`.

    The file is a list of `[question, answer, image number]`.
    """
    path = folder / "questions.json"
    asked = Counter[int]()
    try:
        questions = json.loads(path.read_text(encoding="utf-8"))
        for question, answer, number in questions:
            yield {
                "key": f"{folder.name}-{number}-{asked[number]}",
                "image": str(folder / "images" / f"{number}.png"),
                "question": question,
                "answer": answer,
            }
            asked[number] += 1
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read as questions of easy-VQA ({error}); install easy-vqa==1.0",
            reason="bad_record",
        ) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Write both tables as the arguments of the command line say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder of the tables")
    given = parser.parse_args(arguments)
    package = Path(str(require("easy_vqa", extra="vqa").__file__)).parent
    given.out.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        written = [json.dumps(row) for row in rows(package / "data" / part)]
        write_atomic(given.out / f"{part}.jsonl", "\n".join([*written, ""]).encode())
        print(f"{len(written):,} questions are in {given.out / part}.jsonl")


if __name__ == "__main__":
    main()

"""Text-to-image retrieval among your own captioned images, evaluated by MTEB.

    pip install 'coca-captioners[mteb]'
    python examples/mteb_retrieval.py photos --model everyday

The images are a folder with captions, or tar shards (`shards/val-*.tar`), as for `coca evaluate`.
Each caption is a query. Nothing is downloaded.
"""

import argparse
import logging
from collections.abc import Sequence
from typing import Any

import datasets
import mteb
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.data.sources.folder import FolderConfig
from coca.data.sources.tar.shards import ShardsConfig
from coca.integrations.mteb import CoCaEncoder

logger = logging.getLogger(__name__)


def retrieval_task(samples: Sequence[Sample], name: str = "OwnImages") -> AbsTaskRetrieval:
    """Build a task of MTEB: find the image of each caption."""

    class OwnImages(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=name,
            description="Find the image of a caption.",
            reference=None,
            dataset={"path": "local", "revision": "1"},
            type="Any2AnyRetrieval",
            category="t2i",
            modalities=["image", "text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="recall_at_10",
        )

        def load_data(self, num_proc: int | None = None, **options: Any) -> None:
            """Take the samples in place of a data set of Hugging Face."""
            queries = [
                (f"{sample.key}#{number}", sample.key, caption)
                for sample in samples
                for number, caption in enumerate(sample.captions)
            ]
            images = [{"bytes": sample.image, "path": None} for sample in samples]
            corpus = {"id": [sample.key for sample in samples], "image": images}
            texts = {"id": [one[0] for one in queries], "text": [one[2] for one in queries]}
            split = RetrievalSplitData(
                corpus=datasets.Dataset.from_dict(corpus).cast_column("image", datasets.Image()),
                queries=datasets.Dataset.from_dict(texts),
                relevant_docs={id: {key: 1} for id, key, _ in queries},
                top_ranked=None,
            )
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return OwnImages()


def read_samples(path: str) -> list[Sample]:
    """Read the captioned images of a folder or of shards; unreadable images are skipped."""
    config = ShardsConfig(path=path) if path.endswith(".tar") else FolderConfig(path=path)
    source = open_source(config)
    samples = []
    for row in range(len(source)):
        try:
            sample = source.read(row)
        except DataError as error:
            logger.warning("%s", error)
            continue
        if sample.captions:
            samples.append(sample)
    return samples


def main() -> None:
    """Evaluate a model, and print its recall."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("images", help="folder of captioned images, or tar shards")
    parser.add_argument("--model", default="everyday", help="name or folder of the model")
    arguments = parser.parse_args()
    task = retrieval_task(read_samples(arguments.images))
    result = mteb.evaluate(CoCaEncoder(arguments.model), task, cache=None)
    (scores,) = result.task_results[0].scores["test"]
    for k in (1, 5, 10):
        print(f"recall@{k}: {scores[f'recall_at_{k}']:.3f}")


if __name__ == "__main__":
    main()

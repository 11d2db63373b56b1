"""From global indices to a batch: read, put into words, decode, augment, and mend what is bad.

All randomness of sample g comes from a generator that is seeded by (seed, g).
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from coca.core.errors import DataError
from coca.data.mixture import Mixture
from coca.data.permutation import mix
from coca.data.sample import BadSample, Batch, Sample
from coca.data.sources import Source, SourceConfig, read_rows
from coca.data.text import draw_caption
from coca.processing.image import decode
from coca.processing.processor import Processor

Augmentation: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""Pixels (3, H, W), 0 to 255, to the model's input (3, S, S)."""

# Samples of a source that are tried for one place of a batch before the source is given up.
MAX_ATTEMPTS = 32

# Keeps the randomness of captions and augmentation apart from that of the order.
_VISIT = 1 << 32


class Failure(NamedTuple):
    """What a worker sends in place of a batch that cannot be filled."""

    bad: tuple[BadSample, ...]

    @property
    def message(self) -> str:
        """What happened, as a sentence."""
        last = self.bad[-1]
        return (
            f"{last.source} gave no usable sample in {MAX_ATTEMPTS} attempts; the last: "
            f"{last.detail}"
        )


class _Visit(NamedTuple):
    """A sample as one visit shows it."""

    key: str
    image: Float[Tensor, "3 S S"]
    caption: str
    labels: tuple[str, ...]


class Parts(Dataset[Batch | Failure]):
    """The rank's part of each batch, found by the global index of its first sample."""

    def __init__(
        self,
        configs: Sequence[SourceConfig],
        sources: Sequence[Source],
        mixture: Mixture,
        processor: Processor,
        augment: Augmentation | None,
        share: int,
        class_names: tuple[str, ...],
    ) -> None:
        self._configs = configs
        self._sources = sources
        self._titles = _distinct([config.title for config in configs])
        self._mixture = mixture
        self._processor = processor
        self._augment = augment
        self._share = share
        self._class_names = {name: number for number, name in enumerate(class_names)}

    def __getitem__(self, start: int) -> Batch | Failure:
        indices = np.arange(start, start + self._share)
        seeds = mix(self._mixture.seed, _VISIT, indices).tolist()
        sources, _, rows = (part.tolist() for part in self._mixture.draw(indices))
        found = self._read(sources, rows)
        bad: list[BadSample] = []
        visits: list[_Visit] = []
        for index, source, row, result, seed in zip(
            indices.tolist(), sources, rows, found, seeds, strict=True
        ):
            visit = self._usable(index, source, row, result, seed, bad)
            if visit is None:
                return Failure(tuple(bad))
            visits.append(visit)
        return Batch(
            images=torch.stack([visit.image for visit in visits]),
            tokens=self._processor.texts([visit.caption for visit in visits]),
            keys=tuple(visit.key for visit in visits),
            start=start,
            class_targets=self._targets(visits) if self._class_names else None,
            bad=tuple(bad),
        )

    def _read(self, sources: list[int], rows: list[int]) -> list[Sample | DataError]:
        """The samples of a part; each source is asked once for all of its own."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, source in enumerate(sources):
            places[source].append(place)
        found: dict[int, Sample | DataError] = {}
        for source, its_places in places.items():
            results = read_rows(self._sources[source], [rows[place] for place in its_places])
            found.update(zip(its_places, results, strict=True))
        return [found[place] for place in range(len(rows))]

    def _usable(
        self,
        index: int,
        source: int,
        row: int,
        result: Sample | DataError,
        seed: int,
        bad: list[BadSample],
    ) -> _Visit | None:
        """Sample `index`, or the first usable stand-in; what is not usable is added to `bad`."""
        generator = torch.Generator()
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                row = self._mixture.spare(index, attempt)
                (result,) = read_rows(self._sources[source], [row])
            try:
                return self._visit(result, source, generator.manual_seed(seed))
            except DataError as error:
                key = self._sources[source].key(row)
                bad.append(BadSample(key, self._titles[source], row, error.reason, str(error)))
        return None

    def _visit(self, result: Sample | DataError, source: int, generator: torch.Generator) -> _Visit:
        if isinstance(result, DataError):
            raise result
        # Words first: they cost little, and a sample without any need not be decoded.
        caption = draw_caption(result, self._configs[source], generator)
        for label in result.labels if self._class_names else ():
            if label not in self._class_names:
                raise DataError(
                    f"sample {result.key} has the label {label!r}, which is not in class_names",
                    reason="unknown_label",
                )
        pixels = decode(result.image)
        augment = self._augment
        image = augment(pixels, generator) if augment else self._processor.image(pixels)
        return _Visit(result.key, image, caption, result.labels)

    def _targets(self, visits: Sequence[_Visit]) -> Float[Tensor, "B C"]:
        targets = torch.zeros(len(visits), len(self._class_names))
        for row, visit in enumerate(visits):
            targets[row, [self._class_names[label] for label in visit.labels]] = 1.0
        return targets


def _distinct(titles: Sequence[str]) -> list[str]:
    """Titles, numbered where two sources have the same."""
    return [
        title if titles.count(title) == 1 else f"{title} #{titles[: place + 1].count(title)}"
        for place, title in enumerate(titles)
    ]

"""From global indices to a batch: read, put into words, decode, augment, and mend what is bad.

All randomness of sample g comes from a generator that is seeded by (seed, g).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from coca.core.errors import DataError
from coca.data.loading.mixture import Mixture
from coca.data.loading.permutation import mix
from coca.data.loading.text import Words, sample_text
from coca.data.sample import BadSample, Batch, Sample
from coca.data.sources.base import Source, SourceConfig, read_rows
from coca.metrics.answers import answer_scores
from coca.processing.image import decode
from coca.processing.processor import Processor

Augmentation: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""Bytes (3, H, W), 0 to 255, to bytes of the model's size (3, S, S)."""


class Stage(NamedTuple):
    """How images are shown up to some place of the run."""

    until: int
    """Global index of the first sample that is shown otherwise."""
    augment: Augmentation
    """Takes the place of the usual one."""


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


class _Place(NamedTuple):
    """One place of a batch, and how it is to be filled."""

    sample: int
    """Global index."""
    source: int
    row: int
    seed: int
    augment: Augmentation | None


class _Visit(NamedTuple):
    """A sample as one visit shows it."""

    key: str
    pictures: UInt8[Tensor, "F 3 S S"]
    words: Words
    classes: tuple[str, ...]


class BatchDataset(Dataset[Batch | Failure]):
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
        stages: Sequence[Stage] = (),
        offset: int = 0,
        *,
        by_answers: bool = False,
        pictures: int = 1,
    ) -> None:
        self._configs = configs
        self._sources = sources
        self._titles = _distinct([config.title for config in configs])
        self._mixture = mixture
        self._processor = processor
        self._augment = augment
        self._share = share
        self._stages = stages
        self._offset = offset
        """Samples of each batch that lie on the ranks before this one."""
        self._class_names = {name: number for number, name in enumerate(class_names)}
        self._by_answers = by_answers
        self._pictures = pictures
        self._asks = any(config.text == "question" for config in configs)

    def __getitem__(self, start: int) -> Batch | Failure:
        indices = np.arange(start, start + self._share)
        seeds = mix(self._mixture.seed, _VISIT, indices).tolist()
        sources, _, rows = (part.tolist() for part in self._mixture.draw(indices))
        found = self._read(sources, rows)
        augment = self._augment_at(start - self._offset)
        bad: list[BadSample] = []
        visits: list[_Visit] = []
        for index, source, row, seed, result in zip(
            indices.tolist(), sources, rows, seeds, found, strict=True
        ):
            visit = self._usable(_Place(index, source, row, seed, augment), result, bad)
            if visit is None:
                return Failure(tuple(bad))
            visits.append(visit)
        images = torch.stack([visit.pictures for visit in visits])
        tokens, prompt_lengths = self._tokens([visit.words for visit in visits])
        return Batch(
            images=images if self._pictures > 1 else images[:, 0],
            tokens=tokens,
            keys=tuple(visit.key for visit in visits),
            start=start,
            class_targets=self._targets(visits) if self._class_names else None,
            bad=tuple(bad),
            image_config=self._processor.image_config,
            prompt_lengths=prompt_lengths,
        )

    def _augment_at(self, batch_start: int) -> Augmentation | None:
        """What shows the images of a batch; its first sample decides, so all have one size."""
        for stage in self._stages:
            if batch_start < stage.until:
                return stage.augment
        return self._augment

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
        self, place: _Place, result: Sample | DataError, bad: list[BadSample]
    ) -> _Visit | None:
        """The sample of a place, or the first usable stand-in; what is not goes to `bad`."""
        row = place.row
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                row = self._mixture.spare(place.sample, attempt)
                (result,) = read_rows(self._sources[place.source], [row])
            try:
                return self._visit(result, place)
            except DataError as error:
                key, title = self._sources[place.source].key(row), self._titles[place.source]
                bad.append(BadSample(key, title, row, error.reason, str(error)))
        return None

    def _visit(self, result: Sample | DataError, place: _Place) -> _Visit:
        if isinstance(result, DataError):
            raise result
        generator = torch.Generator().manual_seed(place.seed)
        # Words first: they cost little, and a sample without any need not be decoded.
        words = sample_text(result, self._configs[place.source], generator)
        classes = result.answers if self._by_answers else result.labels
        for label in () if self._by_answers or not self._class_names else classes:
            if label not in self._class_names:
                raise DataError(
                    f"sample {result.key} has the label {label!r}, which is not in class_names",
                    reason="unknown_label",
                )
        return _Visit(result.key, self._shown(result, place.augment, generator), words, classes)

    def _shown(
        self, sample: Sample, show: Augmentation | None, generator: torch.Generator
    ) -> UInt8[Tensor, "F 3 S S"]:
        """All images of a sample, which chance changes alike."""
        if len(sample.images) != self._pictures:
            raise DataError(
                f"sample {sample.key} has {len(sample.images)} images, but each must have "
                f"{self._pictures}",
                reason="picture_count",
            )
        drawn = generator.get_state()
        shown = []
        for content in sample.images:
            pixels = decode(content)
            generator.set_state(drawn)
            shown.append(show(pixels, generator) if show else self._processor.image.square(pixels))
        return torch.stack(shown)

    def _tokens(self, words: Sequence[Words]) -> tuple[Tensor, Tensor | None]:
        """Rows of ids, and how many of each are asked if any source asks."""
        if not self._asks:
            return self._processor.texts([one.text for one in words]), None
        return self._processor.answered(
            [one.text if one.asked else "" for one in words],
            [one.answer if one.asked else one.text for one in words],
        )

    def _targets(self, visits: Sequence[_Visit]) -> Float[Tensor, "B C"]:
        targets = torch.zeros(len(visits), len(self._class_names))
        for row, visit in enumerate(visits):
            for name, worth in self._worth(visit.classes).items():
                if name in self._class_names:
                    targets[row, self._class_names[name]] = worth
        return targets

    def _worth(self, names: Sequence[str]) -> Mapping[str, float]:
        if self._by_answers:
            return answer_scores(names) if names else {}
        return dict.fromkeys(names, 1.0)


def _distinct(titles: Sequence[str]) -> list[str]:
    """Titles, numbered where two sources have the same."""
    return [
        title if titles.count(title) == 1 else f"{title} #{titles[: place + 1].count(title)}"
        for place, title in enumerate(titles)
    ]

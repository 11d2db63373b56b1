"""Batch assembly: read, sample text, decode, augment, tokenize, and replace bad samples.

All randomness of sample g comes from a generator that is seeded by (seed, g).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from coca.core.errors import DataError
from coca.data.batch import Batch
from coca.data.loading.feature_file import FeatureFile
from coca.data.loading.mixture import Mixture, mix
from coca.data.loading.text import SampledText, sample_text
from coca.data.sample import BadSample, Sample
from coca.data.sources.source import Source, SourceConfig
from coca.metrics.answers import answer_scores
from coca.processing.image import decode
from coca.processing.processor import Processor

Augmentation: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""Map uint8 pixels (3, H, W), 0 to 255, to the model's input size (3, S, S)."""


class AugmentStage(NamedTuple):
    """An augmentation that applies up to some sample of the run."""

    until: int
    """Global index of the first sample after the stage."""
    augment: Augmentation
    """Replaces the default augmentation."""


# Samples of a source that are tried for one batch position before the run fails.
MAX_ATTEMPTS = 32

# Separates the random streams of captions and augmentation from that of the order.
_VISIT = 1 << 32


class Failure(NamedTuple):
    """A worker's result in place of a batch that cannot be filled."""

    bad: tuple[BadSample, ...]

    @property
    def message(self) -> str:
        """Error message with the last bad sample."""
        last = self.bad[-1]
        return (
            f"{last.source} gave no usable sample in {MAX_ATTEMPTS} attempts; the last: "
            f"{last.detail}"
        )


class _Slot(NamedTuple):
    """One position of a batch, with the row and the randomness that fill it."""

    sample: int
    """Global index."""
    source: int
    row: int
    seed: int
    augment: Augmentation | None
    epoch: int
    """Number of passes over the source before this sample."""


class _Example(NamedTuple):
    """An augmented sample, or its features, with its sampled text."""

    key: str
    images: UInt8[Tensor, "F 3 S S"] | Float[Tensor, "1 P W"]
    text: SampledText
    classes: tuple[str, ...]


class BatchDataset(Dataset[Batch | Failure]):
    """Map-style dataset of this rank's batches, by the global index of their first sample."""

    def __init__(
        self,
        configs: Sequence[SourceConfig],
        sources: Sequence[Source],
        mixture: Mixture,
        processor: Processor,
        augment: Augmentation | None,
        batch_size: int,
        class_names: tuple[str, ...],
        stages: Sequence[AugmentStage] = (),
        offset: int = 0,
        *,
        by_answers: bool = False,
        images_per_sample: int = 1,
        features: Sequence[FeatureFile] = (),
    ) -> None:
        self._configs = configs
        self._sources = sources
        self._titles = _distinct([config.title for config in configs])
        self._mixture = mixture
        self._processor = processor
        self._augment = augment
        self._batch_size = batch_size
        self._stages = stages
        self._offset = offset
        """Samples of each global batch that belong to lower ranks."""
        self._class_names = {name: number for number, name in enumerate(class_names)}
        self._by_answers = by_answers
        self._images_per_sample = images_per_sample
        self._features = features
        self._has_questions = any(config.text == "question" for config in configs)

    def __getitem__(self, start: int) -> Batch | Failure:
        indices = np.arange(start, start + self._batch_size)
        seeds = mix(self._mixture.seed, _VISIT, indices).tolist()
        sources, epochs, rows = (part.tolist() for part in self._mixture.draw(indices))
        found = self._read(sources, rows)
        # By the first sample of the global batch, since all images of a batch have one size.
        first = start - self._offset
        augment = next((it.augment for it in self._stages if first < it.until), self._augment)
        bad: list[BadSample] = []
        examples: list[_Example] = []
        for index, source, row, seed, epoch, result in zip(
            indices.tolist(), sources, rows, seeds, epochs, found, strict=True
        ):
            example = self._usable(_Slot(index, source, row, seed, augment, epoch), result, bad)
            if example is None:
                return Failure(tuple(bad))
            examples.append(example)
        images = torch.stack([example.images for example in examples])
        tokens, prompt_lengths = self._tokens([example.text for example in examples])
        return Batch(
            images=images if self._images_per_sample > 1 else images[:, 0],
            tokens=tokens,
            keys=tuple(example.key for example in examples),
            start=start,
            class_targets=self._targets(examples) if self._class_names else None,
            bad=tuple(bad),
            image_config=None if self._features else self._processor.image_config,
            prompt_lengths=prompt_lengths,
            is_captioned=self._captioned(examples),
            sources=tuple(self._titles[source] for source in sources),
        )

    def _captioned(self, examples: Sequence[_Example]) -> Bool[Tensor, " B"] | None:
        """Mark the texts of the captioning loss; None if no source has others."""
        if all(config.keyword_captioning for config in self._configs):
            return None
        return torch.tensor([example.text.is_captioned for example in examples])

    def _read(self, sources: list[int], rows: list[int]) -> list[Sample | DataError]:
        """Read the samples of a batch with one bulk read for each source."""
        positions: dict[int, list[int]] = defaultdict(list)
        for position, source in enumerate(sources):
            positions[source].append(position)
        found: dict[int, Sample | DataError] = {}
        for source, of_source in positions.items():
            results = self._rows_of(source, [rows[position] for position in of_source])
            found.update(zip(of_source, results, strict=True))
        return [found[position] for position in range(len(rows))]

    def _rows_of(self, source: int, rows: list[int]) -> list[Sample | DataError]:
        """Read rows of a source; their text only, if features replace the images."""
        opened = self._sources[source]
        if not (self._features and opened.has_metadata):
            return opened.read_many(rows)
        results: list[Sample | DataError] = []
        for row in rows:
            try:
                results.append(opened.read_metadata(row))
            except DataError as error:
                results.append(error)
        return results

    def _usable(
        self, slot: _Slot, result: Sample | DataError, bad: list[BadSample]
    ) -> _Example | None:
        """Return the example of a slot, or its first usable replacement; log failures in `bad`."""
        row = slot.row
        for attempt in range(MAX_ATTEMPTS):
            if attempt:
                row = self._mixture.spare(slot.sample, attempt)
                (result,) = self._rows_of(slot.source, [row])
            try:
                return self._example(result, slot, row)
            except DataError as error:
                key, title = self._sources[slot.source].key(row), self._titles[slot.source]
                bad.append(BadSample(key, title, row, error.reason, str(error)))
        return None

    def _example(self, result: Sample | DataError, slot: _Slot, row: int) -> _Example:
        if isinstance(result, DataError):
            raise result
        generator = torch.Generator().manual_seed(slot.seed)
        # Text first: it is cheap, and a sample without text need not be decoded.
        text = sample_text(result, self._configs[slot.source], generator)
        classes = result.answers if self._by_answers else result.labels
        for label in () if self._by_answers or not self._class_names else classes:
            if label not in self._class_names:
                raise DataError(
                    f"sample {result.key} has the label {label!r}, which is not in class_names",
                    reason="unknown_label",
                )
        if not self._features:
            images = self._augmented(result, slot.augment, generator)
            return _Example(result.key, images, text, classes)
        return _Example(result.key, self._cached(slot, row), text, classes)

    def _cached(self, slot: _Slot, row: int) -> Float[Tensor, "1 P W"]:
        """Read the features of the epoch's view of an image."""
        file = self._features[slot.source]
        found = file.read(row, slot.epoch % file.key.views)
        if found is None:
            # Raises the error of the image, unless it was repaired since.
            decode(self._sources[slot.source].read(row).image)
            raise DataError(
                f"the image was unusable when its features were computed; delete {file.path} to "
                "compute them again",
                reason="bad_features",
            )
        return torch.from_numpy(found)[None]

    def _augmented(
        self, sample: Sample, augment: Augmentation | None, generator: torch.Generator
    ) -> UInt8[Tensor, "F 3 S S"]:
        """Augment all images of a sample with the same random numbers."""
        if len(sample.images) != self._images_per_sample:
            raise DataError(
                f"sample {sample.key} has {len(sample.images)} images, but each must have "
                f"{self._images_per_sample}",
                reason="image_count",
            )
        drawn = generator.get_state()
        augmented = []
        for content in sample.images:
            pixels = decode(content)
            generator.set_state(drawn)
            square = self._processor.image.square
            augmented.append(augment(pixels, generator) if augment else square(pixels))
        return torch.stack(augmented)

    def _tokens(self, texts: Sequence[SampledText]) -> tuple[Tensor, Tensor | None]:
        """Tokenize texts; return prompt lengths as well if any source has questions."""
        if not self._has_questions:
            return self._processor.texts([one.text for one in texts]), None
        return self._processor.answered(
            [one.text if one.is_question else "" for one in texts],
            [one.answer if one.is_question else one.text for one in texts],
        )

    def _targets(self, examples: Sequence[_Example]) -> Float[Tensor, "B C"]:
        targets = torch.zeros(len(examples), len(self._class_names))
        for row, example in enumerate(examples):
            for name, score in self._class_scores(example.classes).items():
                if name in self._class_names:
                    targets[row, self._class_names[name]] = score
        return targets

    def _class_scores(self, names: Sequence[str]) -> Mapping[str, float]:
        if self._by_answers:
            return answer_scores(names) if names else {}
        return dict.fromkeys(names, 1.0)


def _distinct(titles: Sequence[str]) -> list[str]:
    """Number the titles that several sources share."""
    return [
        title if titles.count(title) == 1 else f"{title} #{titles[: position + 1].count(title)}"
        for position, title in enumerate(titles)
    ]

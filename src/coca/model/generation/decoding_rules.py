"""Rules of decoding that logits processors of both runtimes apply, torch and ONNX Runtime."""

from collections.abc import Sequence

from coca.model.generation.generation_config import GenerationConfig
from coca.processing.class_words import ClassGuide
from coca.processing.word_constraint import WordConstraint

NO_TOKEN = -1
"""Padding of shorter rows of token ids; not a token."""


class DecodingRules:
    """Settings and state of logits processors; a runtime adds `apply_` for its arrays."""

    def __init__(
        self,
        decoding: GenerationConfig,
        eos_id: int,
        suppressed: Sequence[int],
        constraint: WordConstraint | None,
        guide: ClassGuide | None,
    ) -> None:
        self._decoding, self._constraint, self._guide = decoding, constraint, guide
        self._eos, self._suppressed = eos_id, list(suppressed)

    @property
    def rescales(self) -> bool:
        """Whether any processor changes the logits of tokens that are not suppressed."""
        return self._decoding.repetition_penalty != 1 or self.is_guided

    @property
    def is_guided(self) -> bool:
        """Whether words of classes gain and cost."""
        return self._guide is not None

    def keep(self, left: Sequence[int]) -> None:
        """Keep some of the images, by their positions."""
        if self._guide is not None:
            self._guide.keep(left)

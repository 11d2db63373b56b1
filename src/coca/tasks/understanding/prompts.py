"""Text inputs of VQA and entailment: prompts from questions or statements."""

from collections.abc import Sequence

from coca.core.errors import DataError
from coca.data.loading.text import templates_of
from coca.data.sample import Sample
from coca.data.sources.base import SourceConfig
from coca.tasks.base import TaskConfig


def text_inputs(samples: Sequence[Sample], config: SourceConfig) -> list[str]:
    """Insert the text of each sample into the source's first template."""
    template = templates_of(config)[0] if config.templates else "{}"
    return [template.replace("{}", sample.text.strip()) for sample in samples]


def require_texts(samples: Sequence[Sample], config: TaskConfig) -> None:
    """Check that each sample has a question, sentence or hypothesis.

    Raises:
        DataError: Some samples have none.
    """
    if without := [sample.key for sample in samples if not sample.text.strip()]:
        raise DataError(
            f"{len(without)} samples of {config.data.title} have no text (such as "
            f"{without[0]}); {config.task} needs a question, sentence or hypothesis for each",
            reason="no_text",
        )

"""What tasks that ask something of an image share: the words, and a check that there are any."""

from collections.abc import Sequence

from coca.core.errors import DataError
from coca.data.loading.text import templates_of
from coca.data.sample import Sample
from coca.data.sources.base import SourceConfig
from coca.tasks.base import TaskConfig


def asked(samples: Sequence[Sample], config: SourceConfig) -> list[str]:
    """What the model reads of each sample: its text, in the first of the source's templates."""
    template = templates_of(config)[0] if config.templates else "{}"
    return [template.replace("{}", sample.text.strip()) for sample in samples]


def require_texts(samples: Sequence[Sample], config: TaskConfig) -> None:
    """Checks that something is asked of each image.

    Raises:
        DataError: Of some nothing is.
    """
    if without := [sample.key for sample in samples if not sample.text.strip()]:
        raise DataError(
            f"of {len(without)} samples of {config.data.title} nothing is asked (such as "
            f"{without[0]}); {config.task} needs a question, sentence or hypothesis for each",
            reason="no_text",
        )

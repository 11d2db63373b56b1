"""Words of the texts that a run trains on, for the constraint of generated captions."""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from coca.core.errors import DataError
from coca.core.progress import progress_bar
from coca.data.loading.text import keywords_of, templates_of, texts_of
from coca.model.checkpoint import has_checkpoint
from coca.processing.caption_words import CAPTION_WORDS_FILE, CaptionWords, words_of
from coca.processing.processor import Processor
from coca.processing.tokenizer import TextTokenizer
from coca.train.distributed.context import DistributedContext
from coca.train.losses import LossConfig
from coca.workflows.training.pretrain_data import TOKENIZER_SAMPLES, Sources

MIN_COUNT = 3
"""Minimum count of a word in captions, so that typing errors are left out."""
MIN_COVERAGE = 0.9
"""Minimum fraction of the running words that the list must contain. A language without spaces has
less, since each sentence would be a word."""


def obtain_caption_words(
    run: Path,
    sources: Sources,
    tokenizer: TextTokenizer,
    *,
    common: Iterable[str] = (),
) -> CaptionWords | None:
    """Collect the words of the sources as `find_caption_words`, and save them in the run's folder.

    They are collected again until the run has a checkpoint. The main rank collects them; all ranks
    must call this function.
    """
    path = run / CAPTION_WORDS_FILE

    def look() -> CaptionWords | None:
        if not (path.exists() and has_checkpoint(run)):
            found = find_caption_words(sources, tokenizer, common=common)
            if found is None:
                path.unlink(missing_ok=True)
                return None
            run.mkdir(parents=True, exist_ok=True)
            found.save(path)
        return CaptionWords.load(path)

    return DistributedContext.current().broadcast_from_main(look)


def extend_caption_words(
    run: Path,
    sources: Sources,
    processor: Processor,
    loss: LossConfig,
) -> CaptionWords | None:
    """Return the words of a pretrained model and those of the texts that it is trained on.

    None if the model has no list: it knows more words than the run has. Also None if the texts of
    the run are not enough for a list, see `find_caption_words`. A run without captioning loss keeps
    the list of the model.
    """
    known = processor.caption_words
    if known is None or not loss.captioning_weight:
        return known
    found = obtain_caption_words(run, sources, processor.tokenizer)
    return None if found is None else known | found


def find_caption_words(
    sources: Sources,
    tokenizer: TextTokenizer,
    *,
    common: Iterable[str] = (),
) -> CaptionWords | None:
    """Collect the words of all texts that captions are learned from.

    These are captions, keywords, labels and answers. The list has the words that occur at least
    `MIN_COUNT` times, the words of labels and templates, and common words that occur.

    Returns:
        The words; None if they cover less than `MIN_COVERAGE` of the running words.
    """
    total = sum(len(source) for _, source in sources)
    step = -(-total // TOKENIZER_SAMPLES)
    counts: Counter[str] = Counter()
    correct: set[str] = set()
    with progress_bar("looking for words", total) as bar:
        for config, source in sources:
            for template in templates_of(config):
                correct.update(words_of(template.replace("{}", " ")))
            for row in range(0, len(source), step):
                bar.advance(step)
                try:
                    sample = source.read_metadata(row)
                except DataError:
                    continue  # the loader reports it during the run
                texts, answers = texts_of(sample, config)
                keywords = keywords_of(sample, config) if config.keyword_captioning else []
                words = [*words_of(" ".join([*texts, *answers, *keywords]))]
                counts.update(words)
                if config.text == "labels":
                    correct.update(words)
    normal: Counter[str] = Counter()
    for word, count in counts.items():
        for normalized in _normalized(word, tokenizer):
            normal[normalized] += count
    listed = {normalized for word in correct for normalized in _normalized(word, tokenizer)}
    listed |= normal.keys() & set(common)
    listed |= {word for word, count in normal.items() if count >= MIN_COUNT}
    covered = sum(normal[word] for word in listed)
    return CaptionWords.of(listed) if covered > MIN_COVERAGE * normal.total() else None


def _normalized(word: str, tokenizer: TextTokenizer) -> list[str]:
    """Return the words that the tokenizer makes of a word; none of half a surrogate pair."""
    with suppress(DataError):
        return [*words_of(tokenizer.decode(tokenizer.encode_prompt(word)[1:]))]
    return []

"""Score captions with the exported decoder: log p(text | image) for pairs of images and texts.

Several texts of an image are one row of the decoder, and the attention mask separates them.

Dimensions: N images, M texts, m texts of a group, L tokens of a row, Q image tokens, C their width.
"""

from collections.abc import Iterable, Iterator, Sequence, Sized

import numpy as np
from jaxtyping import Bool, Float32, Int64

from coca.predict.onnx_beam_search import log_softmax
from coca.predict.onnx_decoder import OnnxDecoder
from coca.processing.preprocess import TextSettings

LOGITS_PER_CHUNK = 4_000_000
"""Logits of a decoder call, which the vocabulary size multiplies; they take memory."""


def score_captions(
    decoder: OnnxDecoder,
    image_tokens: Float32[np.ndarray, "N Q C"],
    tokens: Int64[np.ndarray, "M T"],
    text: TextSettings,
    *,
    vocab_size: int,
    only: Bool[np.ndarray, "N M"] | None = None,
    end: bool = True,
) -> Float32[np.ndarray, "N M"]:
    """Compute the log-probability of each text for each image, in nats.

    It is the sum over the text tokens and [EOS], as in `coca.model.generation.scoring`. A pair that
    `only` excludes gets minus infinity. Without `end`, [EOS] does not count: the text may go on.
    """
    rows = [row[: _labels(row, text)] for row in tokens]
    scores = np.full((len(image_tokens), len(rows)), -np.inf, np.float32)
    for index, seen in enumerate(image_tokens):
        wanted = range(len(rows)) if only is None else np.flatnonzero(only[index]).tolist()
        image = decoder.read_image(seen[None])
        for group in _groups(rows, wanted, max(1, LOGITS_PER_CHUNK // vocab_size)):
            ids = [rows[text_index] for text_index in group]
            lengths = [len(row) for row in ids]
            starts = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
            columns = np.arange(sum(lengths))
            mask = (columns <= columns[:, None]) & (columns >= starts[:, None])
            logits, _ = decoder.step(
                np.concatenate(ids)[None],
                (columns - starts)[None],
                mask[None],
                image,
                decoder.no_cache(1),
            )
            # The target of a position is the next token.
            targets = np.concatenate([tokens[one, 1 : len(rows[one]) + 1] for one in group])
            log_ps = log_softmax(logits[0])[columns, targets]
            # Padding is not a label, even where its id is also that of a text token.
            log_ps = np.where(targets == text.pad_id, 0, log_ps)
            if not end:
                log_ps = np.where(targets == text.eos_id, 0, log_ps)
            scores[index, group] = np.add.reduceat(log_ps, np.cumsum([0, *lengths[:-1]]))
    return scores


def scored_lengths(tokens: Int64[np.ndarray, "M T"], text: TextSettings) -> Int64[np.ndarray, " M"]:
    """Count the scored tokens of each text: its text tokens and [EOS]."""
    return np.array(
        [(row[1 : _labels(row, text) + 1] != text.pad_id).sum() for row in tokens], np.int64
    )


def _labels(row: Int64[np.ndarray, " T"], text: TextSettings) -> int:
    """Return the number of positions before [EOS], which all predict a token."""
    return int((row == text.eos_id).argmax())


def _groups(rows: Sequence[Sized], wanted: Iterable[int], limit: int) -> Iterator[list[int]]:
    """Split texts into groups of at most `limit` tokens; a group has at least one text."""
    group: list[int] = []
    size = 0
    for index in wanted:
        if group and size + len(rows[index]) > limit:
            yield group
            group, size = [], 0
        group.append(index)
        size += len(rows[index])
    if group:
        yield group

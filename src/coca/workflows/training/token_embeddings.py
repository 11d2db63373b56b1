"""Token embeddings of a training run that are mapped from word vectors."""

import logging
from pathlib import Path

import torch

from coca.core.errors import ConfigError
from coca.model.coca import CoCa
from coca.model.word_map import add_word_map_
from coca.processing.tokenizer import TextTokenizer, Tokenizer
from coca.processing.word_vectors import WordVectors

logger = logging.getLogger(__name__)


def map_word_vectors_(
    model: CoCa, tokenizer: TextTokenizer, path: Path, *, initialized: bool
) -> None:
    """Replace the token embedding of a model by a shared map of word vectors.

    Args:
        model: Changed in place.
        tokenizer: Its words are looked up in the vectors.
        path: File of `WordVectors`.
        initialized: Whether the model has trained weights, whose outputs must not change.

    Raises:
        ConfigError: The tokenizer has no words of its own, or no word has a vector.
        ModelError: The file cannot be read.
    """
    if not isinstance(tokenizer, Tokenizer):
        raise ConfigError("word_vectors need a tokenizer that was trained by coca, not CLIP's")
    vectors, found = WordVectors.load(path).table(tokenizer.words())
    if not found.any():
        raise ConfigError(f"{path} has a vector for none of the tokenizer's words")
    logger.info("%s of %s tokens have a word vector", int(found.sum()), len(found))
    embedding = model.unimodal_decoder.token_embedding
    padded = torch.zeros(embedding.num_embeddings, vectors.shape[1])
    padded[: len(vectors)] = torch.from_numpy(vectors)
    add_word_map_(embedding, padded, learned=tokenizer.learned_size, initialized=initialized)

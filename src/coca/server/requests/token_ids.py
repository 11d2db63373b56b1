"""Decode the token ids of OpenAI's clients; langchain-openai sends them in place of texts."""

import logging
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from coca.core.errors import ConfigError

logger = logging.getLogger(__name__)

ENCODING = "cl100k_base"
"""Encoding of OpenAI's embedding models, and the one that clients choose for an unknown model."""

_loading = threading.Lock()
_loaded: list[Any] = []
"""The encoding, or None after it could not be loaded: tiktoken downloads it at its first use."""


def decode_tokens(inputs: Sequence[Sequence[int]]) -> list[str]:
    """Decode the token ids of each input to a text.

    Raises:
        ConfigError: An id is unknown, or the encoding is not available.
    """
    encoding = _encoding()
    if encoding is None:
        raise ConfigError(
            f"input must be texts: this service cannot decode token ids, since tiktoken or its "
            f"encoding {ENCODING} is missing; with langchain-openai pass "
            "check_embedding_ctx_length=False"
        )
    try:
        return [encoding.decode(ids) for ids in inputs]
    except (KeyError, OverflowError):
        raise ConfigError(f"input has a token id that {ENCODING} does not have") from None


def _encoding() -> Any:
    """Load the encoding once; requests meanwhile do not wait, since a download may hang."""
    if not _loaded and _loading.acquire(blocking=False):
        try:
            # No dependency of the service: it is where clients of OpenAI are installed as well.
            _loaded.append(import_module("tiktoken").get_encoding(ENCODING))
        except Exception as error:
            # The import, the download, or its checksum.
            logger.warning("token ids of clients cannot be decoded: %s", error)
            _loaded.append(None)
        finally:
            _loading.release()
    return _loaded[0] if _loaded else None

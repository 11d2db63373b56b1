"""Audit log: one JSON line for each change that a request makes."""

import json
import logging
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coca.core.errors import ConfigError

logger = logging.getLogger(__name__)

_MAX_IDS = 100
"""Maximum number of ids of a line; `count` is the number of all."""


class AuditLog:
    """Appends lines to a file, or logs them at level INFO; thread-safe."""

    def __init__(self, path: Path | None) -> None:
        """Open the file."""
        self._lock = threading.Lock()
        self._file = None
        if path is not None:
            try:
                self._file = path.open("a", encoding="utf-8")
            except OSError as error:
                raise ConfigError(
                    f"the audit log {path} cannot be written: {error.strerror}"
                ) from error

    def write(self, action: str, *, ids: list[str] | None = None, **fields: Any) -> None:
        """Write a line."""
        line: dict[str, Any] = {"time": datetime.now(UTC).isoformat(), "action": action, **fields}
        if ids is not None:
            line |= {"count": len(ids), "ids": ids[:_MAX_IDS]}
        text = json.dumps(line)
        if self._file is None:
            logger.info("%s", text)
            return
        with self._lock:
            try:
                self._file.write(text + "\n")
                self._file.flush()
            except (OSError, ValueError) as error:
                # The change is made already.
                logger.error("the audit log cannot be written (%s): %s", error, text)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

"""Bearer keys: what a key may use, how often, how much and until when."""

import hmac
import json
import logging
import math
import os
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from coca.core.config.frozen_config import Config, from_dict
from coca.core.errors import ConfigError
from coca.core.files.local_files import read_regular
from coca.server.errors import ServiceError

logger = logging.getLogger(__name__)

_DAY_S = 86_400
MIN_LETTERS = 32
"""Minimum length of a key, in characters: as many random hexadecimal digits have 128 bits."""
MAKE_KEY = '`python -c "import secrets; print(secrets.token_urlsafe())"`'
"""Command that prints a new key of 256 bits."""
_SENDABLE = re.compile(r"[!-~]+\Z")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})\Z")
"""A key of the file as its digest: who reads the file cannot send it."""
SESSION_S = 12 * 3600
"""Time for which a session cookie is valid, in seconds."""


class KeyConfig(Config):
    """What one key may use."""

    name: str
    """Name in logs and metrics; the key itself is never logged."""
    collections: tuple[str, ...] = ()
    """Collections of the key, the default first; empty: all."""
    rate: Annotated[float, Field(gt=0)] | None = None
    """Maximum number of requests per second, with bursts of one second; None: no limit. A request
    with much work for the model counts as several, see `requests_of`."""
    quota: Annotated[int, Field(ge=0)] | None = None
    """Maximum number of requests per day (UTC), counted in the same way; None: no limit."""
    write_quota: Annotated[int, Field(ge=0)] | None = None
    """Maximum number of bytes that the key may write per day (UTC): images, captions and metadata;
    None: no limit."""
    writable: bool = True
    """Whether the key may add, change and delete items."""
    admin: bool = False
    """Whether the key reads the metrics of all keys."""
    expires: datetime | None = None
    """Time from which the key is invalid; None: never."""


@dataclass
class _Usage:
    tokens: float
    filled_at: float
    day: int = -1
    used: int = 0
    written: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class KeyRing:
    """The keys of a service, with their current use; thread-safe."""

    def __init__(
        self,
        keys: Mapping[str, KeyConfig],
        *,
        check: Callable[[KeyConfig], None] = lambda key: None,
        file: "KeyFile | None" = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Store the digests of the keys."""
        self._check, self._file, self._clock = check, file, clock
        self._secret = secrets.token_bytes()
        self._usage: dict[str, _Usage] = {}
        self._keys: dict[bytes, KeyConfig] = {}
        self._by_session: dict[str, KeyConfig] = {}
        self._set(keys)
        # A file that loses its last key must not open the service to everybody.
        self.are_needed = bool(keys)

    def _set(self, keys: Mapping[str, KeyConfig]) -> None:
        for config in keys.values():
            self._check(config)
        for config in keys.values():
            # The use of a key continues after its file is read again.
            full = _Usage(max(1.0, config.rate or 0.0), self._clock())
            self._usage.setdefault(config.name, full)
        self._keys = {_stored_digest(key): config for key, config in keys.items()}
        self._by_session = {self._sign(digest): config for digest, config in self._keys.items()}

    def refresh(self) -> None:
        """Read the file again if it has changed; a faulty file keeps the keys as they are."""
        try:
            if self._file is None or (changed := self._file.changed()) is None:
                return
            self._set(changed)
        except ConfigError as error:
            logger.error("the keys stay as they were: %s", error)
            return
        logger.warning("%s keys are in use now, after their file was changed", len(self._keys))

    @property
    def configs(self) -> list[KeyConfig]:
        """What the keys may use."""
        return [*self._keys.values()]

    def find(self, header: str | None) -> KeyConfig:
        """Find the key of an `Authorization` header."""
        scheme, _, key = (header or "").partition(" ")
        # The time to look up a digest says nothing about the key.
        found = self._keys.get(_digest(key.strip())) if scheme.lower() == "bearer" else None
        return self._valid(found, "a valid key is needed: send it as a bearer token")

    def session(self, header: str) -> str:
        """Build the value of a session cookie for the key of a valid `Authorization` header."""
        digest = _digest(header.partition(" ")[2].strip())
        signed = f"{int(self._clock()) + SESSION_S}.{self._sign(digest)}"
        return f"{signed}.{self._sign(signed.encode())}"

    def find_session(self, cookie: str) -> KeyConfig:
        """Find the key of a session cookie; a removed key has none."""
        signed, _, signature = cookie.rpartition(".")
        until, _, key = signed.partition(".")
        expected = self._sign(signed.encode()).encode()
        is_signed = hmac.compare_digest(signature.encode(), expected)
        is_valid = is_signed and self._clock() < int(until)
        found = self._by_session.get(key) if is_valid else None
        return self._valid(found, "the session has ended: send the key to /v1/session again")

    def _sign(self, content: bytes) -> str:
        return hmac.digest(self._secret, content, "sha256").hex()

    def _valid(self, found: KeyConfig | None, fault: str) -> KeyConfig:
        if found is None:
            raise ServiceError(fault, status=401, code="invalid_api_key")
        if found.expires is not None and self._clock() >= found.expires.timestamp():
            raise ServiceError(
                f"the key {found.name!r} expired at {found.expires.isoformat()}",
                status=401,
                code="expired_api_key",
            )
        return found

    def count(self, config: KeyConfig) -> None:
        """Count a request of a key as one."""
        usage, now = self._usage[config.name], self._clock()
        with usage.lock:
            day = _start_day(usage, now)
            if config.quota is not None and usage.used >= config.quota:
                raise _limited(
                    f"the quota of {config.quota:,} requests a day is used up",
                    (day + 1) * _DAY_S - now,
                )
            if config.rate is not None:
                burst = max(1.0, config.rate)
                refilled = usage.tokens + max(0.0, now - usage.filled_at) * config.rate
                usage.tokens, usage.filled_at = min(burst, refilled), now
                if usage.tokens < 1:
                    raise _limited(
                        f"the rate is limited to {config.rate:g} requests per second",
                        (1 - usage.tokens) / config.rate,
                    )
                usage.tokens -= 1
            usage.used += 1

    def charge(self, config: KeyConfig, requests: int) -> None:
        """Count an accepted request as further ones, after which the key waits for its rate."""
        usage, now = self._usage[config.name], self._clock()
        with usage.lock:
            if config.quota is not None and usage.used + requests > config.quota:
                raise _limited(
                    f"this request counts as {requests + 1:,}, and the quota of {config.quota:,} "
                    f"requests a day has {config.quota - usage.used + 1:,} left",
                    (usage.day + 1) * _DAY_S - now,
                )
            usage.used += requests
            if config.rate is not None:
                usage.tokens -= requests

    def count_bytes(self, config: KeyConfig, size: int) -> None:
        """Count bytes that a key is about to write."""
        usage, now = self._usage[config.name], self._clock()
        with usage.lock:
            day = _start_day(usage, now)
            if config.write_quota is not None and usage.written + size > config.write_quota:
                left = config.write_quota - usage.written
                raise _limited(
                    f"this request writes {size:,} bytes, and the write quota of "
                    f"{config.write_quota:,} bytes a day has {left:,} left",
                    (day + 1) * _DAY_S - now,
                    code="write_quota_exceeded",
                )
            usage.written += size


def requests_of(
    *, searches: int = 0, texts: int = 0, images: int = 0, captions: int = 0, pairs: int = 0
) -> int:
    """Compute how many requests the work of one counts as.

    One request covers a saved search, 32 texts, 10 images or 4 captions of the model, or the
    comparison of 5 million pairs of images: about the same processor time.
    """
    return max(1, math.ceil(searches + texts / 32 + images / 10 + captions / 4 + pairs / 5e6))


class KeyFile:
    """Keys of a list and a file; the file may change while the service runs."""

    def __init__(self, listed: str, file: Path | None) -> None:
        """Read the keys, see `read_keys`.

        Attributes:
            keys: Key -> what it may use.
        """
        self._listed, self._file = listed, file
        self._state = self._stat()
        self.keys = read_keys(listed, file)

    def changed(self) -> dict[str, KeyConfig] | None:
        """Read the keys again; None if the file is as it was."""
        if self._file is None or (state := self._stat()) == self._state:
            return None
        self._state = state
        self.keys = read_keys(self._listed, self._file)
        return self.keys

    def _stat(self) -> tuple[int, int, int]:
        try:
            status = os.stat(self._file or "")
        except OSError:
            return 0, 0, 0
        return status.st_mtime_ns, status.st_size, status.st_ino


def read_keys(listed: str, file: Path | None) -> dict[str, KeyConfig]:
    """Read keys from a comma-separated list and from a JSON file."""
    names = [key.strip() for key in listed.split(",") if key.strip()]
    keys = {key: KeyConfig(name=f"key-{number}") for number, key in enumerate(names, start=1)}
    if file is not None:
        for number, (key, fields) in enumerate(_read(file).items(), start=1):
            keys[key] = _config(file, number, fields)
    if short := [(config.name, len(key)) for key, config in keys.items() if len(key) < MIN_LETTERS]:
        name, letters = short[0]
        raise ConfigError(
            f"a key must have at least {MIN_LETTERS} random characters, so that nobody guesses it, "
            f"and the key of {name!r} has {letters}: print a new one with {MAKE_KEY}"
        )
    if unsendable := [config.name for key, config in keys.items() if not _SENDABLE.match(key)]:
        raise ConfigError(
            f"the key of {unsendable[0]!r} cannot be sent in a header: a key must have printable "
            "ASCII characters only, and no spaces"
        )
    counts = Counter(config.name for config in keys.values())
    if twice := [name for name, count in counts.items() if count > 1]:
        raise ConfigError(f"two keys have the name {twice[0]!r}; names must differ")
    return keys


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_regular(file, max_bytes=1 << 20))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the keys in {file} cannot be read: {error}; it must contain one JSON object of "
            f'key -> object, such as {{"KEY": {{"name": "anna"}}}}, with a KEY from {MAKE_KEY}'
        ) from error
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise ConfigError(f"{file} must contain one JSON object of key -> object")
    return found


def _config(file: Path, number: int, fields: Mapping[str, Any]) -> KeyConfig:
    values = {"name": f"file-{number}", **fields}
    expires = values.pop("expires", None)
    config = from_dict(KeyConfig, values, source=str(file))
    return config if expires is None else config.replace(expires=_moment(file, expires))


def _moment(file: Path, given: Any) -> datetime:
    """Parse a date or time of ISO 8601; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(given)
    except (TypeError, ValueError):
        raise ConfigError(
            f"expires in {file} must be a time such as 2027-01-31T12:00:00Z, got {given!r}"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _start_day(usage: _Usage, now: float) -> int:
    """Return the number of the day; what was used on another day is forgotten."""
    day = int(now // _DAY_S)
    if day != usage.day:
        usage.day, usage.used, usage.written = day, 0, 0
    return day


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def _stored_digest(key: str) -> bytes:
    """Return the digest of a key, which may be stored as its digest."""
    stored = _DIGEST.match(key)
    return bytes.fromhex(stored[1]) if stored else _digest(key)


def _limited(message: str, wait_s: float, *, code: str = "rate_limit_exceeded") -> ServiceError:
    wait = max(1, math.ceil(wait_s))
    return ServiceError(message, status=429, code=code, retry_after_s=wait)

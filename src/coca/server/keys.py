"""Bearer keys: what a key may use, how often, and how much."""

import hmac
import json
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt

from coca.core.config.base import Config
from coca.core.errors import ConfigError
from coca.core.files.regular_files import read_regular
from coca.server.errors import ServiceError

_DAY_S = 86_400


@dataclass(frozen=True, kw_only=True)
class KeyConfig(Config):
    """What one key may use."""

    name: str
    """Name in logs and metrics; the key itself is never logged."""
    collections: tuple[str, ...] = ()
    """Collections of the key, the default first; empty: all."""
    rate: Annotated[float, Gt(0)] | None = None
    """Maximum number of requests per second, with bursts of one second; None: no limit. A request
    with much work for the model counts as several, see `requests_of`."""
    quota: Annotated[int, Ge(0)] | None = None
    """Maximum number of requests per day (UTC), counted in the same way; None: no limit."""
    writable: bool = True
    """Whether the key may add, change and delete items."""


@dataclass
class _Usage:
    tokens: float
    filled_at: float
    day: int = -1
    used: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class KeyRing:
    """The keys of a service, with their current use; thread-safe."""

    def __init__(
        self, keys: Mapping[str, KeyConfig], *, clock: Callable[[], float] = time.time
    ) -> None:
        """Store the digests of the keys.

        Args:
            keys: Key -> what it may use; empty: requests need no key.
            clock: Current time, in seconds since 1970.
        """
        self._keys = [(_digest(key), config) for key, config in keys.items()]
        self._clock = clock
        self._usage = {
            config.name: _Usage(max(1.0, config.rate or 0.0), clock()) for config in keys.values()
        }

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def configs(self) -> list[KeyConfig]:
        """What the keys may use."""
        return [config for _, config in self._keys]

    def find(self, header: str | None) -> KeyConfig:
        """Find the key of an `Authorization` header.

        Raises:
            ServiceError: There is no such key (status 401).
        """
        scheme, _, key = (header or "").partition(" ")
        given, found = _digest(key.strip()), None
        # All digests are compared, in constant time each.
        for digest, config in self._keys:
            if hmac.compare_digest(digest, given):
                found = config
        if found is None or scheme.lower() != "bearer":
            raise ServiceError(
                "a valid key is needed: send the header `Authorization: Bearer KEY`",
                status=401,
                code="invalid_api_key",
            )
        return found

    def count(self, config: KeyConfig) -> None:
        """Count a request of a key as one.

        Raises:
            ServiceError: The key is above its rate or quota (status 429).
        """
        usage, now = self._usage[config.name], self._clock()
        with usage.lock:
            day = int(now // _DAY_S)
            if day != usage.day:
                usage.day, usage.used = day, 0
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
        """Count an accepted request as further ones, after which the key waits for its rate.

        Raises:
            ServiceError: The quota has too few requests left (status 429).
        """
        usage, now = self._usage[config.name], self._clock()
        with usage.lock:
            if config.quota is not None and usage.used + requests > config.quota:
                raise _limited(
                    f"this request counts as {requests + 1:,}, and the quota of {config.quota:,} "
                    f"requests a day has {config.quota - usage.used + 1:,} left",
                    (usage.day + 1) * _DAY_S - now,
                )
            usage.used += requests
            usage.tokens -= requests


def requests_of(*, texts: int = 0, images: int = 0, captions: int = 0) -> int:
    """Compute how many requests the work of one for the model counts as.

    One request covers 32 texts, 10 images or 4 captions: about the same processor time.

    Args:
        texts: Embedded texts.
        images: Embedded images, or images that are compared with a text by its likelihood.
        captions: Generated captions.
    """
    return max(1, math.ceil(texts / 32 + images / 10 + captions / 4))


def read_keys(listed: str, file: Path | None) -> dict[str, KeyConfig]:
    """Read keys from a comma-separated list and from a JSON file.

    Args:
        listed: Keys for all collections, as in the variable COCA_API_KEYS.
        file: JSON object of key -> `{"name", "collections", "rate", "quota", "writable"}`.

    Raises:
        ConfigError: The file cannot be read, a field is unknown, or two keys have one name.
    """
    names = [key.strip() for key in listed.split(",") if key.strip()]
    keys = {key: KeyConfig(name=f"key-{number}") for number, key in enumerate(names, start=1)}
    if file is not None:
        for number, (key, fields) in enumerate(_read(file).items(), start=1):
            keys[key] = _config(file, number, fields)
    if short := [config.name for key, config in keys.items() if len(key) < 8]:
        raise ConfigError(
            f"a key must have at least 8 characters, and that of {short[0]!r} has not"
        )
    given = [config.name for config in keys.values()]
    if twice := [name for name in given if given.count(name) > 1]:
        raise ConfigError(f"two keys have the name {twice[0]!r}; names must differ")
    return keys


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_regular(file, max_bytes=1 << 20))
    except (OSError, ValueError) as error:
        raise ConfigError(f"the keys in {file} cannot be read: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise ConfigError(f"{file} must hold one JSON object of key -> object")
    return found


def _config(file: Path, number: int, fields: Mapping[str, Any]) -> KeyConfig:
    known: Sequence[str] = ("name", "collections", "rate", "quota", "writable")
    if unknown := [name for name in fields if name not in known]:
        raise ConfigError(f"{file} has the unknown field {unknown[0]!r}; known: {', '.join(known)}")
    values = {"name": f"file-{number}", **fields}
    collections = values.get("collections", ())
    if not isinstance(collections, list | tuple) or not all(
        isinstance(one, str) for one in collections
    ):
        raise ConfigError(f"collections in {file} must be a list of names, got {collections!r}")
    values["collections"] = tuple(collections)
    if values.get("rate") is not None:
        try:
            values["rate"] = float(values["rate"])
        except (TypeError, ValueError):
            raise ConfigError(f"rate in {file} must be a number, got {values['rate']!r}") from None
    if not isinstance(values["name"], str) or not isinstance(values.get("writable", True), bool):
        raise ConfigError(f"name in {file} must be a text, and writable true or false")
    return KeyConfig(**values)


def _digest(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def _limited(message: str, wait_s: float) -> ServiceError:
    return ServiceError(
        message, status=429, code="rate_limit_exceeded", retry_after_s=max(1, math.ceil(wait_s))
    )

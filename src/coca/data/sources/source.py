"""Base class of data sources, the registry of their kinds, and the settings that all share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from coca.core.config.frozen_config import Config, Fraction
from coca.core.errors import ConfigError, DataError, did_you_mean
from coca.core.registry import Registry
from coca.data.sample import Sample
from coca.predict.prompts import CLIP_PROMPTS

NAMED_TEMPLATES = {"clip": CLIP_PROMPTS}
"""Named sets of prompt templates that a recipe may use in place of a template."""


class PartConfig(Config):
    """Deterministic hash split of a table that has no splits of its own.

    The distinct values of a column are sorted by their hash; rows with values from `start` to `end`
    are read. `{by: image, end: 0.8}` and `{by: image, start: 0.8}` share no image.
    """

    by: str
    """Column to split by; rows with equal values stay in one part."""
    start: Fraction = 0.0
    """Start of the part, as a fraction of the distinct values; below `end`."""
    end: Fraction = 1.0
    """End of the part, as a fraction of the distinct values."""

    @model_validator(mode="after")
    def _check_rules(self) -> "PartConfig":
        if self.start >= self.end:
            raise ConfigError(f"start must be below end {self.end}, got {self.start}")
        return self


class SourceConfig(Config):
    """Settings that sources of all kinds share; the class of a kind adds its own.

    Each kind has one class, such as `FolderConfig`; in a recipe, `kind` chooses it.
    """

    kind: str
    """A kind of this package, or one that a plugin registers."""

    path: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """Folder, manifest file, or tar files. Several tars may be given, with `*` and braces such as
    `{0000..0099}`, also as URLs (docs/data.md lists the schemes)."""

    name: str = ""
    """Name in logs; the path by default."""

    weight: PositiveFloat = 1.0
    """Sampling weight relative to the other sources."""

    text: Literal["captions", "labels", "question"] = "captions"
    """Text to read: one of the captions, the names of all labels, or the question followed by one
    of its answers, if any."""

    templates: tuple[str, ...] = ()
    """Prompt templates with `{}` for the text or question; one is sampled at each visit. `clip` is
    the set of CLIP's 80 templates. Default: none, except "a photo of the {}" for labels."""

    keyword_field: str = ""
    """Metadata field with other texts that people search by, a list or one text, such as
    `keywords`, `tags`, or captions in a second language; see `keyword_fraction`."""

    keyword_fraction: Fraction = 0.0
    """Fraction of visits, 0 to 1, whose text is one of the keywords in place of a caption. So a
    model learns queries of one word. A sample without keywords has its captions only."""

    keyword_captioning: bool = True
    """Whether keywords take part in the captioning loss. false: the model learns to understand
    them but not to write them, such as captions in a second language."""

    strip: NonNegativeInt = 0
    """Frames in each image, for images that are frame strips of a video; 0 reads them as plain
    images."""

    frames: PositiveInt = 16
    """Videos, frame folders and strips: frames of each sample, spread evenly over its length."""

    has_frames: ClassVar[bool] = False
    """Whether the samples of the kind are videos."""

    @model_validator(mode="after")
    def _check_rules(self) -> "SourceConfig":
        faults = []
        if not all(self.paths):
            faults.append(f"path must be a folder, file or pattern, got {self.path!r}")
        if self.frames != type(self).model_fields["frames"].default and not (
            self.strip or self.has_frames
        ):
            faults.append(f"frames is {self.frames}, but the images are not strips; set strip")
        if (self.keyword_fraction > 0) != bool(self.keyword_field) or (
            self.keyword_field and self.text != "captions"
        ):
            faults.append(
                f"keyword_fraction is {self.keyword_fraction}, keyword_field "
                f"{self.keyword_field!r} and text {self.text}; keywords need both settings and "
                "text: captions"
            )
        faults += [
            f"template {template!r} has no {{}} for the text, and is not a set of templates; "
            f"{did_you_mean(template, NAMED_TEMPLATES)}"
            for template in self.templates
            if "{}" not in template and template not in NAMED_TEMPLATES
        ]
        if faults:
            raise ConfigError("; ".join(faults))
        return self

    @classmethod
    def kinds(cls) -> dict[str, type["SourceConfig"]]:
        """Return the class of each registered kind."""
        return {name: SOURCES.get(name).config for name in SOURCES.names()}

    @property
    def paths(self) -> tuple[str, ...]:
        """`path` as a tuple."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def title(self) -> str:
        """Name of the source in logs."""
        return self.name or ", ".join(self.paths)


class SplitConfig(SourceConfig):
    """Settings of formats with several splits in one file."""

    split: str | tuple[str, ...] = ()
    """Split or splits to read, such as `test` or `[train, restval]`; all by default."""

    @property
    def splits(self) -> tuple[str, ...]:
        """`split` as a tuple."""
        return (self.split,) if isinstance(self.split, str) else self.split


class SelectionConfig(SourceConfig):
    """Settings that select samples by their columns or sidecar fields."""

    where: dict[str, str | int | tuple[str | int, ...]] = Field(default_factory=dict)
    """Filter on columns or sidecar fields, each with its allowed value or values:
    `{split: train}`."""

    part: PartConfig | None = None
    """Hash split of the filtered samples, to hold out samples where the data has no splits."""


class Source(ABC):
    """A map-style dataset: samples by row number, and their images by path.

    It must be picklable, so open file handles on first read. A kind implements `fingerprint`,
    `__len__`, `key` and `read`; it overrides other methods if it can do better.
    """

    fingerprint: str
    """Hash that changes when the samples or their order change."""
    block_size: int = 1
    """Number of consecutive rows that are cheap to read together; 1 if there is no benefit."""
    has_metadata: ClassVar[bool] = False
    """Whether `read_metadata` reads no image."""
    classes: tuple[str, ...] = ()
    """Class names; empty if only the samples give them."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def key(self, row: int) -> str:
        """Return the key of the sample in a row without reading the sample."""

    @abstractmethod
    def read(self, row: int) -> Sample:
        """Read the sample in a row.

        Raises:
            DataError: The sample cannot be read; `reason` gives the cause.
        """

    def read_many(self, rows: Sequence[int]) -> list[Sample | DataError]:
        """Return the sample or the error of each row, as `read` returns or raises it."""
        return [_result(self.read, row) for row in rows]

    def read_metadata(self, row: int) -> Sample:
        """Read a sample without its images if `has_metadata`; raises as `read` does."""
        return self.read(row)

    def etag(self, row: int) -> str:
        """Return a value that changes when the sample changes, without reading its images.

        Returns:
            The etag; empty if only the content can show a change.
        """
        return ""

    def paths(self, row: int) -> Sequence[str]:
        """Return the stable paths of the sample's images: files, URLs, or names in an archive.

        Rows that describe the same image share its path. A source without paths is for training
        only.
        """
        return ()

    def owned(self, path: str, etag: str) -> bool:
        """Return whether a sample with this path and etag belongs to this source if it exists."""
        return False


def _result(read: Callable[[int], Sample], row: int) -> Sample | DataError:
    try:
        return read(row)
    except DataError as error:
        return error


class SourceKind(NamedTuple):
    """A kind of source: the class of its settings, and the function that opens it."""

    config: type[SourceConfig]
    open: Callable[[Any], Source]


SOURCES: Registry[SourceKind] = Registry("data source", "sources", SourceKind)

Opener = TypeVar("Opener", bound=Callable[..., Source])


def register_source(kind: str, config: type[SourceConfig]) -> Callable[[Opener], Opener]:
    """Return a decorator that registers the function or class that opens a kind of source.

    Args:
        kind: Name of the kind in recipes.
        config: Class of its settings, and of the argument of the decorated function.

    Raises:
        ValueError: The kind is already registered.
    """
    register = SOURCES.register(kind)

    def add(opener: Opener) -> Opener:
        register(SourceKind(config, opener))
        return opener

    return add


def single_path(config: SourceConfig) -> str:
    """Return the path of a kind of source that takes only one."""
    if len(config.paths) > 1:
        raise ConfigError(
            f"a source of kind {config.kind} takes one path, not {len(config.paths)}; make each a "
            "source of its own"
        )
    return config.paths[0]

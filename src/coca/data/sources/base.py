"""Source protocols, the source registry, and `SourceConfig`, their entry in a recipe."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from coca.core.errors import ConfigError, DataError, did_you_mean
from coca.core.registry import Registry
from coca.data.sample import Sample
from coca.processing.prompts import CLIP_PROMPTS

NAMED_TEMPLATES = {"clip": CLIP_PROMPTS}
"""Named sets of prompt templates that a recipe may use in place of a template."""


@dataclass(frozen=True, kw_only=True)
class PartConfig:
    """Deterministic hash split of a table that has no splits of its own.

    The distinct values of a column are sorted by their hash; rows with values from `start` to `end`
    are read. `{by: image, end: 0.8}` and `{by: image, start: 0.8}` share no image.
    """

    by: str
    """Column to split by; rows with equal values stay in one part."""
    start: float = 0.0
    """Start of the part, as a fraction of the distinct values; at least 0 and below `end`."""
    end: float = 1.0
    """End of the part, as a fraction of the distinct values; at most 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise ConfigError(
                f"start and end must satisfy 0 <= start < end <= 1, got {self.start} and {self.end}"
            )


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Configuration of one source of a mixture, and of the text that is read from it."""

    kind: str
    """`folder`, `class_folders`, `manifest`, `shards`, `zip`, `karpathy`, `coco_captions`, `vqa`,
    `daquar`, `easy_vqa`, `snli_ve`, `nlvr`, `nlvr2`, `videos`, `kinetics`, `moments`, `msrvtt`, or
    a kind that a plugin registers."""

    path: str | tuple[str, ...]
    """Folder, manifest file, or tar files. Several tars may be given, with `*` and braces such as
    `{0000..0099}`, also as URLs (docs/data.md lists the schemes)."""

    name: str = ""
    """Name in logs; the path by default."""

    weight: float = 1.0
    """Sampling weight relative to the other sources; above 0."""

    text: Literal["captions", "labels", "question"] = "captions"
    """Text to read: one of the captions, the names of all labels, or the question followed by one
    of its answers, if any."""

    templates: tuple[str, ...] = ()
    """Prompt templates with `{}` for the text or question; one is sampled at each visit. `clip` is
    the set of CLIP's 80 templates. Default: none, except "a photo of the {}" for labels."""

    images: str = ""
    """Folder of the images, for formats whose file only names them; by default the folder of that
    file."""

    split: str | tuple[str, ...] = ()
    """Split or splits to read, for formats with several splits in one file, such as `test` or
    `[train, restval]`; all by default."""

    names: str = ""
    """Class folders: file that maps folders to class names; folder names by default."""

    classes: str = ""
    """Class folders: file that lists the classes to read; all by default."""

    border_px: int = 0
    """Class folders: pixels to crop at each side of an image, such as ObjectNet's red frame."""

    image_column: str = ""
    """Manifest, zip: column of the image, if it has no usual name such as `image` or `path`. A list
    in it is several images of one sample."""

    caption_column: str = ""
    """Manifest, zip: column of the caption, if it has no usual name such as `caption`."""

    label_column: str = ""
    """Manifest, zip: column of the label, if it is not `labels` or `label`."""

    text_column: str = ""
    """Manifest, zip: column of the question or statement, if it is not `question`, `sentence` or
    `hypothesis`."""

    answer_column: str = ""
    """Manifest, zip: column of the answers, if it is not `answers` or `answer`."""

    where: dict[str, str | int | tuple[str | int, ...]] = field(default_factory=dict)
    """Manifest, zip, shards, folder: filter on columns or sidecar fields, each with its allowed
    value or values: `{split: train}`. Other kinds reject it."""

    part: PartConfig | None = None
    """Manifest, zip, shards, folder: hash split of the filtered samples, to hold out samples where
    the data has no splits. Other kinds reject it."""

    table: str = ""
    """Zip: name of the table in the archive, if it has several."""

    read_from: tuple[str, ...] = ()
    """Manifest: folders and URL prefixes that its rows may additionally name. Always allowed are
    local files (of a local manifest), its own host, object stores and public web addresses.
    `file://` and addresses of this machine and of private networks need an entry here."""

    frames: int = 16
    """Videos, frame folders and strips: frames of each sample, spread evenly over its length."""

    frame_px: int = 576
    """Videos: larger frames are resized so that their shorter side has this many pixels."""

    strip: int = 0
    """Frames in each image, for images that are frame strips of a video; 0 reads them as plain
    images."""

    index_folder: str = ""
    """Shards: folder of the tar indexes. By default they are stored next to the tars, or in the
    user's cache (`~/.cache/coca/index`) if that folder is read-only."""

    block_size: int = 0
    """Shards: consecutive samples that are read together. 0 means 1 for local files and 256 for
    remote files. A larger block reads faster and shuffles less."""

    def __post_init__(self) -> None:
        faults = []
        if not self.paths or not all(self.paths):
            faults.append(f"path must be a folder, file or pattern, got {self.path!r}")
        if not 0 < self.weight < float("inf"):
            faults.append(f"weight {self.weight} is not above 0")
        least = {"block_size": 0, "border_px": 0, "strip": 0, "frames": 1, "frame_px": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                faults.append(f"{name} {getattr(self, name)} is below {smallest}")
        faults += [
            f"template {template!r} has no {{}} to put the text into, and is no set of templates; "
            f"{did_you_mean(template, NAMED_TEMPLATES)}"
            for template in self.templates
            if "{}" not in template and template not in NAMED_TEMPLATES
        ]
        if faults:
            raise ConfigError("; ".join(faults))

    @property
    def paths(self) -> tuple[str, ...]:
        """`path` as a tuple."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def splits(self) -> tuple[str, ...]:
        """`split` as a tuple."""
        return (self.split,) if isinstance(self.split, str) else self.split

    @property
    def title(self) -> str:
        """Name of the source in logs."""
        return self.name or ", ".join(self.paths)


@runtime_checkable
class Source(Protocol):
    """A map-style dataset: samples by row number.

    It must be picklable, so open file handles on first read.
    """

    @property
    def fingerprint(self) -> str:
        """Hash that changes when the samples or their order change."""
        ...

    @property
    def block_size(self) -> int:
        """Number of consecutive rows that are cheap to read together; 1 if there is no benefit."""
        ...

    def __len__(self) -> int: ...

    def key(self, row: int) -> str:
        """Return the key of the sample in a row without reading the sample."""
        ...

    def read(self, row: int) -> Sample:
        """Read the sample in a row.

        Raises:
            DataError: The sample cannot be read; `reason` gives the cause.
        """
        ...


@runtime_checkable
class BulkSource(Protocol):
    """Optional interface of a source that reads many rows faster than one at a time."""

    def read_many(self, rows: Sequence[int]) -> list[Sample | DataError]:
        """Return the sample or the error of each row, as `read` returns or raises it."""
        ...


@runtime_checkable
class MetadataSource(Protocol):
    """Optional interface of a source that reads text and metadata without the images."""

    def words(self, row: int) -> Sample:
        """Read the sample in a row with an empty image and no others; raises as `read` does."""
        ...


@runtime_checkable
class StampedSource(Protocol):
    """Optional interface of a source that detects changed samples without reading images."""

    def stamp(self, row: int) -> str:
        """Return a value that changes when the sample changes, without reading its images.

        Raises:
            DataError: The row cannot be read.
        """
        ...


@runtime_checkable
class PlacedSource(Source, StampedSource, Protocol):
    """Optional interface of a source with stable image paths, for incremental updates."""

    def places(self, row: int) -> Sequence[str]:
        """Return the stable paths of the sample's images: files, URLs, or names in an archive.

        Rows that describe the same image share its path.
        """
        ...

    def owned(self, place: str, stamp: str) -> bool:
        """Return whether a sample with this path and stamp belongs to this source if it exists."""
        ...


@runtime_checkable
class ClassSource(Protocol):
    """Optional interface of a source that lists its classes without reading samples."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        ...


SourceMaker: TypeAlias = Callable[[SourceConfig], Source]

Maker = TypeVar("Maker", bound=SourceMaker)

SOURCES: Registry[SourceMaker] = Registry("data source")

_READ: dict[SourceMaker, frozenset[str]] = {}
"""Settings of `SourceConfig` that a kind reads in addition to those that all kinds share."""

_SHARED = frozenset({"kind", "path", "name", "weight", "text", "templates", "strip"})
_SELECTING = frozenset({"where", "part"})


def reads(*names: str) -> Callable[[Maker], Maker]:
    """Declare the settings that a kind of source reads; `require_read` rejects the others."""
    known = {it.name for it in fields(SourceConfig)}
    assert known.issuperset(names), f"{names} are no settings of a source"

    def declare(maker: Maker) -> Maker:
        _READ[maker] = frozenset(names)
        return maker

    return declare


def require_read(config: SourceConfig) -> None:
    """Reject settings that the kind of source would ignore.

    For a plugin's kind that declares nothing, only `where` and `part` are rejected. To ignore them
    would silently train on all samples instead of the selected ones.

    Raises:
        ConfigError: The kind is unknown, or it does not read a setting that is set.
    """
    declared = _READ.get(SOURCES.get(config.kind))
    given = {
        it.name
        for it in fields(SourceConfig)
        if getattr(config, it.name) != _default(it) and it.name not in _SHARED
    }
    if config.strip:
        given.discard("frames")
    ignored = given & _SELECTING if declared is None else given - declared
    if ignored:
        name = min(ignored)
        read = ", ".join(sorted(declared or ())) or "none"
        raise ConfigError(
            f"{name} is {getattr(config, name)!r}, but a source of kind {config.kind} does not "
            f"read {name}; besides path, text and templates it reads {read}"
        )


def _default(setting: "Field[Any]") -> Any:
    return setting.default if setting.default_factory is MISSING else setting.default_factory()


def single_path(config: SourceConfig) -> str:
    """Return the path of a kind of source that takes only one.

    Raises:
        ConfigError: The config names several paths.
    """
    if len(config.paths) > 1:
        raise ConfigError(
            f"a source of kind {config.kind} takes one path, not {len(config.paths)}; make each a "
            "source of its own"
        )
    return config.paths[0]


def read_rows(source: Source, rows: Sequence[int]) -> list[Sample | DataError]:
    """Read the samples of the given rows; an unreadable row yields its error."""
    if isinstance(source, BulkSource):
        return source.read_many(rows)
    results: list[Sample | DataError] = []
    for row in rows:
        try:
            results.append(source.read(row))
        except DataError as error:
            results.append(error)
    return results


def words_of(source: Source, row: int) -> Sample:
    """Read the text and metadata of a sample, without its images if the source supports that.

    Raises:
        DataError: The sample cannot be read.
    """
    return source.words(row) if isinstance(source, MetadataSource) else source.read(row)

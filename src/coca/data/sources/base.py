"""Where samples come from: what a source is, and how one is named in a recipe."""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from coca.core.errors import ConfigError, DataError, did_you_mean
from coca.core.registry import Registry
from coca.data.sample import Sample
from coca.processing.prompts import CLIP_PROMPTS

NAMED_TEMPLATES = {"clip": CLIP_PROMPTS}
"""Sets of templates that a recipe may name in place of a template."""


@dataclass(frozen=True, kw_only=True)
class PartConfig:
    """A part of a table that has no splits of its own, always the same one.

    The values of a column are put in the order of their hashes, and those from `start` to `end` are
    read. `{by: image, end: 0.8}` and `{by: image, start: 0.8}` share no image.
    """

    by: str
    """The column; rows with the same value stay together."""
    start: float = 0.0
    """Where the part begins, as a share of the different values: at least 0, below `end`."""
    end: float = 1.0
    """Where it ends; at most 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise ConfigError(
                f"start {self.start} and end {self.end} must lie within 0 to 1, in this order"
            )


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One source of a mixture, and how its words become captions."""

    kind: str
    """`folder`, `class_folders`, `manifest`, `shards`, `zip`, `karpathy`, `coco_captions`, `vqa`,
    `daquar`, `easy_vqa`, `snli_ve`, `nlvr`, `nlvr2`, `videos`, `kinetics`, `moments`, `msrvtt`, or
    what a plugin registers."""

    path: str | tuple[str, ...]
    """Where it is: a folder, a manifest, or tars. Tars may be several, with `*` and braces such as
    `{0000..0099}`, and stand under any URL that fsspec knows."""

    name: str = ""
    """What logs call it; by default its path."""

    weight: float = 1.0
    """Share of the samples that come from here, relative to the other sources; above 0."""

    text: Literal["captions", "labels", "question"] = "captions"
    """What is read as the text: one of the captions, the names of the labels, or what is asked of
    the image and behind it one of the answers, if there are any."""

    templates: tuple[str, ...] = ()
    """Sentences with `{}` where the text goes, or what is asked; one is drawn at each visit. `clip`
    stands for the 80 of CLIP. Without any, texts stand alone and labels in "a photo of the {}"."""

    images: str = ""
    """Formats whose file only names images: the folder that they lie in; by default the file's
    own."""

    split: str | tuple[str, ...] = ()
    """Formats that hold several parts in one file: the part or parts to read, such as `test`, or
    `[train, restval]`; by default all."""

    names: str = ""
    """Class folders: a file that says what each folder shows; by default their own names."""

    classes: str = ""
    """Class folders: a file that lists the classes to read; by default all."""

    border_px: int = 0
    """Class folders: what is cut off at each side of an image, such as ObjectNet's red frame."""

    image_column: str = ""
    """Manifest, zip: where the image stands, if not under a usual name such as `image` or `path`;
    a list there is several images of one sample."""

    caption_column: str = ""
    """Manifest, zip: where the caption stands, if not under a usual name such as `caption`."""

    label_column: str = ""
    """Manifest, zip: where the label stands, if not under `labels` or `label`."""

    text_column: str = ""
    """Manifest, zip: where the question or claim stands, if not under `question`, `sentence` or
    `hypothesis`."""

    answer_column: str = ""
    """Manifest, zip: where answers stand, if not under `answers` or `answer`."""

    where: dict[str, str | int | tuple[str | int, ...]] = field(default_factory=dict)
    """Manifest, zip, shards, folder: the samples to read, by columns or fields of the sidecar and
    their value or values: `{split: train}`. Other kinds refuse it."""

    part: PartConfig | None = None
    """Manifest, zip, shards, folder: of these a part, to hold some of them out where no split says
    which. Other kinds refuse it."""

    table: str = ""
    """Zip: the table inside, if there are several."""

    read_from: tuple[str, ...] = ()
    """Manifest: folders and beginnings of URLs that its rows may name besides local files (of a
    local manifest), its own host, object stores and public web addresses. Without it, `file://`
    and addresses of this machine and of private networks are refused."""

    frames: int = 16
    """Videos, frame folders and strips: frames of each sample, spread over its length."""

    frame_px: int = 576
    """Videos: larger frames are shrunk so that their shorter side has this many pixels."""

    strip: int = 0
    """Pictures that are strips of a video: how many frames stand side by side in each; 0 reads them
    as images."""

    index_folder: str = ""
    """Shards: where their indexes are kept; by default next to them, or in the user's cache
    (`~/.cache/coca/index`) if that folder is read-only."""

    block_size: int = 0
    """Shards: neighbouring samples that are read together; 0 takes 1 for local files and 256 for
    remote ones. A larger block reads faster and shuffles less."""

    def __post_init__(self) -> None:
        faults = []
        if not self.paths or not all(self.paths):
            faults.append(f"path {self.path!r} names nothing; right is a folder, file or pattern")
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
        """What logs call the source."""
        return self.name or ", ".join(self.paths)


@runtime_checkable
class Source(Protocol):
    """Samples by row number. It must survive pickling, so open handles when reading."""

    @property
    def fingerprint(self) -> str:
        """Changes when the samples or their order do."""
        ...

    @property
    def block_size(self) -> int:
        """How many neighbouring rows are cheap to read together; 1 if it makes no difference."""
        ...

    def __len__(self) -> int: ...

    def key(self, row: int) -> str:
        """The key of the sample in this row, without reading it."""
        ...

    def read(self, row: int) -> Sample:
        """The sample in this row.

        Raises:
            DataError: It cannot be read; `reason` says why.
        """
        ...


@runtime_checkable
class BulkSource(Protocol):
    """What a source has besides, if it reads many rows faster than one after the other."""

    def read_many(self, rows: Sequence[int]) -> list[Sample | DataError]:
        """What `read` returns or raises for each row."""
        ...


@runtime_checkable
class MetadataSource(Protocol):
    """What a source has besides, if it knows the words of a sample without reading its images."""

    def words(self, row: int) -> Sample:
        """The sample in this row, with an empty image and no others; raises as `read` does."""
        ...


@runtime_checkable
class StampedSource(Protocol):
    """Optional interface of a source that detects changed samples without reading their images."""

    def stamp(self, row: int) -> str:
        """Changes when the sample does; known without reading its images.

        Raises:
            DataError: The row cannot be read.
        """
        ...


@runtime_checkable
class PlacedSource(Source, StampedSource, Protocol):
    """What a source has besides, if its images can be told apart and followed over time."""

    def places(self, row: int) -> Sequence[str]:
        """Where the sample's images lie, the same in each run: files, URLs, or names within one.

        Rows that describe the same image share its place.
        """
        ...

    def owned(self, place: str, stamp: str) -> bool:
        """Whether a sample with this place and stamp would come from here, if it is there."""
        ...


@runtime_checkable
class ClassSource(Protocol):
    """What a source has besides, if it knows all of its classes without reading its samples."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        ...


SourceMaker: TypeAlias = Callable[[SourceConfig], Source]

Maker = TypeVar("Maker", bound=SourceMaker)

SOURCES: Registry[SourceMaker] = Registry("data source")

_READ: dict[SourceMaker, frozenset[str]] = {}
"""The settings of `SourceConfig` that a kind reads besides those that all kinds share."""

_SHARED = frozenset({"kind", "path", "name", "weight", "text", "templates", "strip"})
_SELECTING = frozenset({"where", "part"})


def reads(*names: str) -> Callable[[Maker], Maker]:
    """Declare which further settings a kind of source reads; `require_read` refuses the others."""
    known = {it.name for it in fields(SourceConfig)}
    assert known.issuperset(names), f"{names} are no settings of a source"

    def declare(maker: Maker) -> Maker:
        _READ[maker] = frozenset(names)
        return maker

    return declare


def require_read(config: SourceConfig) -> None:
    """Refuse a setting that a source would ignore.

    A plugin's kind that declares nothing is only refused `where` and `part`: who trains on a part
    of the samples must not train on all of them.

    Raises:
        ConfigError: No such kind, or it does not read a setting that is set.
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
    """The one path of a kind of source that cannot take several.

    Raises:
        ConfigError: The config names more than one.
    """
    if len(config.paths) > 1:
        raise ConfigError(
            f"a source of kind {config.kind} takes one path, not {len(config.paths)}; make each a "
            "source of its own"
        )
    return config.paths[0]


def read_rows(source: Source, rows: Sequence[int]) -> list[Sample | DataError]:
    """Samples of the given rows, with the error in the place of each that cannot be read."""
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
    """The sample in this row, its images only if they cannot be left out.

    Raises:
        DataError: It cannot be read.
    """
    return source.words(row) if isinstance(source, MetadataSource) else source.read(row)

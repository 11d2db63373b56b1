"""Embedding by many processes: a tar is the unit of work, and one Parquet file its result.

Processes on any number of machines share the folder of results and nothing else. A file's name
says which model and which content it was made from, so that what is there is never made again;
when a tar has changed, its new file takes the place of the old one. A lock of the system, which
ends with its process, keeps two from working on the same tar.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import BinaryIO

from coca.core.errors import ConfigError, DataError, SearchError, StorageError
from coca.core.progress import ProgressMaker, silent
from coca.data.sources.base import SourceConfig
from coca.data.storage.storage import Storage, full_path
from coca.inference.predictor import Predictor
from coca.search.ingest.parquet import VectorsInfo, find_vectors, read_info, write_vectors
from coca.search.ingest.pipeline import embed_source, ingest_vectors
from coca.search.ingest.report import BadPicture
from coca.search.milvus.collection import Collection
from coca.search.records import same_model
from coca.workflows.collections.collection_model import lasting_name
from coca.workflows.collections.image_sources import SampleSource
from coca.workflows.collections.index import FillResult, captioner


@dataclass(frozen=True)
class EmbeddedShard:
    """What became of one tar."""

    shard: str
    out: Path | None
    """Its file of vectors; None while another process works on it, or if it is bad."""
    made: bool = False
    """It was made now, and not found."""
    pictures: int = 0
    bad: tuple[BadPicture, ...] = ()
    fault: str = ""
    """Why the tar as a whole cannot be used."""


def find_shards(places: Sequence[str | Path]) -> list[str]:
    """The tars that folders, patterns and URLs stand for.

    Raises:
        DataError: A place fits nothing.
    """
    return Storage().find([str(place) for place in places], suffix=".tar")


def embed_shards(
    shards: Sequence[str],
    predictor: Predictor,
    out: str | Path,
    *,
    captions: bool = False,
    start: int = 0,
    progress: ProgressMaker = silent,
) -> Iterator[EmbeddedShard]:
    """Embed tars one after the other, but those that are done or in the hands of another process.

    Args:
        shards: From `find_shards`, the same list in each process.
        predictor: The model.
        out: Folder of the results, shared by all processes.
        captions: Let the model write the captions of images that come without one.
        start: Where in the list to begin; processes that begin apart seldom meet.
        progress: Shows how far each tar is.

    Yields:
        What became of each tar.
    """
    for number in range(len(shards)):
        shard = shards[(start + number) % len(shards)]
        yield embed_shard(shard, predictor, out, captions=captions, progress=progress)


def embed_shard(
    shard: str,
    predictor: Predictor,
    out: str | Path,
    *,
    captions: bool = False,
    progress: ProgressMaker = silent,
) -> EmbeddedShard:
    """Embed one tar unless that is done, or another process is at it."""
    try:
        source = SampleSource(SourceConfig(kind="shards", path=shard))
    except DataError as error:
        return EmbeddedShard(shard, None, fault=str(error))
    names = {
        spoken: f"{Path(shard).stem}-{_address(source, predictor, spoken)}"
        for spoken in (False, True)
    }
    path = Path(out) / f"{names[captions]}.parquet"
    claim = Path(out) / ".claims" / names[captions]
    # A claim beside the file is of a process that was killed before it had removed older ones.
    if not path.exists() or claim.exists():
        held = _take(claim)
        if held is None:
            return EmbeddedShard(shard, None)
        made = None
        with held:
            # Whoever held the claim until now may have made it.
            if not path.exists():
                made = _embed(shard, source, predictor, path, captions, progress)
            _remove_older(shard, predictor, out, now=set(names.values()))
            # While it is held: whoever opened this very file looks for the result next.
            claim.unlink(missing_ok=True)
        if made is not None:
            return made
    return EmbeddedShard(shard, path, pictures=read_info(path).pictures)


def only_vectors(places: Sequence[str | Path]) -> bool:
    """Whether these places hold vectors and no images.

    Raises:
        ConfigError: Some do and some do not.
    """
    holding = [place for place in places if find_vectors(place)]
    if holding and len(holding) < len(places):
        raise ConfigError(
            f"{holding[0]} holds vectors, and other places images: index them one after the other"
        )
    return bool(holding)


def index_vectors(
    places: Sequence[str | Path],
    *,
    uri: str,
    collection: str = "pictures",
    token: str = "",
    progress: ProgressMaker = silent,
) -> FillResult:
    """Puts embedded tars into a collection, which is made if it is missing; needs no model.

    Args:
        places: Folders of files, or files, that `embed_shards` made.
        uri: Path that ends in `.db`, or address of a Milvus server.
        collection: Name within that place.
        token: `"user:password"` or a key, for servers that want one.
        progress: Shows how far it is.

    Raises:
        DataError: A place holds no vectors.
        SearchError: They are of several models, or of another one than the collection's.
    """
    files = [file for place in places for file in find_vectors(place)]
    if not files:
        raise DataError(f"{', '.join(map(str, places))} holds no vectors", reason="missing")
    # The longest fingerprint first: an older version wrote shorter ones.
    infos = sorted(map(read_info, files), key=lambda info: -len(info.fingerprint))
    if not all(same_model(info.fingerprint, infos[0].fingerprint) for info in infos):
        models = ", ".join(sorted({f"{info.fingerprint} ({info.model})" for info in infos}))
        raise SearchError(
            f"the vectors are of several models: {models}; give each a folder of its own"
        )
    with Collection.open(
        uri,
        collection,
        token=token,
        embed_dim=infos[0].embed_dim,
        fingerprint=infos[0].fingerprint,
        model=infos[0].model,
        create=True,
    ) as index:
        report = ingest_vectors(files, index, progress=progress)
        return FillResult(index.describe(), report)


def _embed(
    shard: str,
    source: SampleSource,
    predictor: Predictor,
    path: Path,
    captions: bool,
    progress: ProgressMaker,
) -> EmbeddedShard:
    records, report = embed_source(
        source,
        predictor,
        captioner=captioner(predictor) if captions else None,
        progress=progress,
        batch_size=predictor.batch_size,
    )
    about = VectorsInfo(
        fingerprint=predictor.fingerprint,
        embed_dim=predictor.embed_dim,
        model=lasting_name(predictor),
        source=full_path(shard),
        pictures=report.good,
        bad=len(report.bad),
    )
    write_vectors(path, records, about)
    return EmbeddedShard(shard, path, made=True, pictures=report.good, bad=tuple(report.bad))


def _remove_older(shard: str, predictor: Predictor, out: str | Path, *, now: set[str]) -> None:
    """Remove what was made from a tar when it held other images; `now` names what is current."""
    for file in Path(out).glob(f"{escape(Path(shard).stem)}-*.parquet"):
        if file.stem in now or not find_vectors(file):
            continue
        info = read_info(file)
        if (info.source, info.fingerprint) == (full_path(shard), predictor.fingerprint):
            file.unlink(missing_ok=True)


def _address(source: SampleSource, predictor: Predictor, captions: bool) -> str:
    """Hash of all that the result depends on."""
    parts = (predictor.fingerprint, source.fingerprint, str(captions))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _take(claim: Path) -> BinaryIO | None:
    """The claim, held by this process until it is closed; None if another process holds it."""
    # Imported here, as only these commands need a system that has it.
    import fcntl

    try:
        claim.parent.mkdir(parents=True, exist_ok=True)
        file = claim.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
    except OSError as error:
        raise StorageError(f"{claim} cannot be written: {error.strerror or error}") from error
    return file

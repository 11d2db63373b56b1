"""Images of tars, tables and zips to index: the rows of a training source, joined by image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from coca.core.errors import DataError
from coca.core.files.local_files import modified_at
from coca.data.sources.source import Source
from coca.data.storage.storage import full_path
from coca.search.ingest.photo_metadata import Annotation
from coca.search.ingest.sources import Entry, ImageSource, SourceImage


class SampleSource(ImageSource):
    """The images of a training source with paths; rows that describe one image are joined.

    Labels become tags. Further captions, and questions with their answers, become metadata.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        # Path -> rows that describe the image, each with the image's number within the row.
        self._rows: dict[str, list[tuple[int, int]]] = {}
        for row in range(len(source)):
            for number, path in enumerate(source.paths(row)):
                self._rows.setdefault(path, []).append((row, number))
        self._entries = [Entry(path, self._etag(rows)) for path, rows in self._rows.items()]

    def entries(self) -> Sequence[Entry]:
        """Return one entry per image, in the order of its first row."""
        return self._entries

    def read(self, entry: Entry) -> Iterator[SourceImage]:
        """Read an image with the texts of all rows that describe it."""
        rows = self._rows[entry.path]
        samples = [self._source.read(row) for row, _ in rows]
        captions = list(dict.fromkeys(caption for sample in samples for caption in sample.captions))
        first = samples[0]
        questions = [
            {"question": sample.text, "answers": list(sample.answers)}
            for sample in samples
            if sample.text or sample.answers
        ]
        metadata = dict(first.metadata)
        if questions:
            metadata["questions"] = questions
        tags = [tag for sample in samples for tag in sample.labels]
        yield SourceImage(
            path=entry.path,
            data=first.images[rows[0][1]],
            annotation=Annotation.of(captions, metadata, tags=tags),
            modified_at=modified_at(entry.path),
            etag=entry.etag,
        )

    def has_lost(self, path: str, etag: str) -> bool:
        """Return whether the path belonged to this source; tars and tables are listed in full."""
        return self._source.owned(path, etag)

    def _etag(self, rows: Sequence[tuple[int, int]]) -> str:
        try:
            return ",".join(self._source.etag(row) for row, _ in rows)
        except DataError:
            # Reading the row reports the error.
            return ""


@dataclass(frozen=True)
class UnreadableFile(ImageSource):
    """A tar or table that is unreadable as a whole: one entry, whose `read` raises."""

    path: str
    fault: DataError

    def entries(self) -> Sequence[Entry]:
        """Return the file as the only entry."""
        return [Entry(full_path(self.path), "")]

    def read(self, entry: Entry) -> Iterator[SourceImage]:
        """Raise the error."""
        raise self.fault

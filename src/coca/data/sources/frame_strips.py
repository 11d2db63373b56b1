"""Strips: images that hold the frames of a video side by side, cut apart when they are read."""

import hashlib
from dataclasses import replace

from coca.data.sample import Sample
from coca.data.sources.base import Source, StampedSource, words_of
from coca.processing.image import decode
from coca.processing.video import as_file, cut_strip, spread


class StripSource:
    """Another source whose images are strips.

    Args:
        source: Gives the strips.
        strip: Frames that each strip holds.
        frames: Frames of a sample, spread over the strip.
    """

    def __init__(self, source: Source, strip: int, frames: int) -> None:
        self._source = source
        self._strip = strip
        self._frames = frames
        self.block_size = source.block_size
        digest = hashlib.sha256(f"{source.fingerprint} {strip} {frames}".encode())
        self.fingerprint = digest.hexdigest()[:16]
        """That of the strips, and of how they are cut."""

    def __len__(self) -> int:
        return len(self._source)

    def key(self, row: int) -> str:
        """The key of the strip."""
        return self._source.key(row)

    def stamp(self, row: int) -> str:
        """The stamp of the strip; empty if its source has none."""
        return self._source.stamp(row) if isinstance(self._source, StampedSource) else ""

    def words(self, row: int) -> Sample:
        """The sample without its frames; `DataError` if it cannot be read."""
        return words_of(self._source, row)

    def read(self, row: int) -> Sample:
        """The sample with its frames; `DataError` if the strip is bad or cannot be cut evenly."""
        sample = self._source.read(row)
        pixels = decode(sample.image).permute(1, 2, 0).numpy()
        cut = cut_strip(pixels, self._strip)
        first, *others = (as_file(cut[place]) for place in spread(self._strip, self._frames))
        return replace(sample, image=first, others=tuple(others))

"""Frame strips: images that contain the frames of a video side by side, split on read."""

import hashlib
from dataclasses import replace

from coca.data.sample import Sample
from coca.data.sources.base import EtagSource, Source, read_metadata
from coca.processing.video import as_file, cut_strip, spread


class StripSource:
    """Wrapper of a source whose images are frame strips.

    Args:
        source: Source of the strips.
        strip: Number of frames in each strip.
        frames: Number of frames of a sample, evenly spaced over the strip.
    """

    def __init__(self, source: Source, strip: int, frames: int) -> None:
        self._source = source
        self._strip = strip
        self._frames = frames
        self.block_size = source.block_size
        digest = hashlib.sha256(f"{source.fingerprint} {strip} {frames}".encode())
        self.fingerprint = digest.hexdigest()[:16]
        """Hash of the strips' fingerprint and of the frame settings."""

    def __len__(self) -> int:
        return len(self._source)

    def key(self, row: int) -> str:
        """Return the key of the strip."""
        return self._source.key(row)

    def etag(self, row: int) -> str:
        """Return the etag of the strip; empty if its source has none."""
        return self._source.etag(row) if isinstance(self._source, EtagSource) else ""

    def read_metadata(self, row: int) -> Sample:
        """Read the sample without its frames; `DataError` if it cannot be read."""
        return read_metadata(self._source, row)

    def read(self, row: int) -> Sample:
        """Read the sample with its frames; `DataError` if the strip is damaged or not divisible."""
        # Imports torch, which programs that only list sources do not need.
        from coca.processing.image import decode

        sample = self._source.read(row)
        pixels = decode(sample.image).permute(1, 2, 0).numpy()
        cut = cut_strip(pixels, self._strip)
        first, *others = (as_file(cut[index]) for index in spread(self._strip, self._frames))
        return replace(sample, image=first, others=tuple(others))

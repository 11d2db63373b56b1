"""The record of samples that could not be used: counted, listed once, and too many stop the run."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from coca.core.errors import DataError
from coca.core.files import append_line
from coca.data.sample import BadSample

# The bad share is taken of at least so many samples, so that one bad image among the first
# hundred does not stop a run that may have 1 % of them.
LEAST_SEEN = 1000


class BadSampleLog:
    """Counts bad samples and lists each once in a file of JSON lines.

    Args:
        path: The file; samples that it lists already are not listed again. None keeps no list.
        max_bad_fraction: Largest share of bad samples among those seen, 0 to 1.
    """

    def __init__(self, path: Path | None, max_bad_fraction: float) -> None:
        self.path = path
        self.max_bad_fraction = max_bad_fraction
        self.counts: Counter[str] = Counter()
        """How often a sample was bad, by reason."""
        self._listed = _listed(path) if path is not None and path.exists() else set()
        self._seen = 0

    def add(self, good: int, bad: Sequence[BadSample]) -> None:
        """Take note of the samples that a batch took and of those that it had to replace.

        Raises:
            DataError: More than `max_bad_fraction` of the samples seen are bad.
        """
        self._seen += good + len(bad)
        self.counts.update(sample.reason for sample in bad)
        for sample in bad:
            place = (sample.source, sample.row)
            if self.path is not None and place not in self._listed:
                append_line(self.path, json.dumps(asdict(sample)))
                self._listed.add(place)
        total = self.counts.total()
        if total > self.max_bad_fraction * max(self._seen, LEAST_SEEN):
            raise DataError(
                f"{total:,} of {self._seen:,} samples are bad, more than max_bad_fraction "
                f"{self.max_bad_fraction:g} allows: {self.summary()}",
                reason="too_many_bad",
            )

    def summary(self) -> str:
        """The counts as words, with the last place to look."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.most_common())
        return f"{reasons} (listed in {self.path})" if self.path is not None else reasons


def _listed(path: Path) -> set[tuple[str, int]]:
    found = set()
    for line in path.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
            found.add((entry["source"], entry["row"]))
        except (ValueError, TypeError, KeyError):
            # The half line of a run that was killed while it wrote.
            continue
    return found

"""Log of unusable samples: counts, a JSON-lines list, and an upper limit that stops the run.

Indexing uses it without torch.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from coca.core.errors import DataError
from coca.core.files.atomic import append_line
from coca.data.sample import BadSample

# Minimum denominator of the bad fraction, so that one bad image among the first hundred does not
# stop a run that allows 1 % of them.
MIN_SEEN = 1000


class BadSampleLog:
    """Counter of bad samples that also lists each sample once in a JSON-lines file.

    Args:
        path: The JSON-lines file; samples already in it are not added again. None: no file.
        max_bad_fraction: Largest fraction of bad samples among those seen, 0 to 1.
    """

    def __init__(self, path: Path | None, max_bad_fraction: float) -> None:
        self.path = path
        self.max_bad_fraction = max_bad_fraction
        self.counts: Counter[str] = Counter()
        """Number of bad samples by reason."""
        self._listed = _listed(path) if path is not None and path.exists() else set()
        self._seen = 0

    def add(self, good: int, bad: Sequence[BadSample]) -> None:
        """Count the good samples of a batch and log those that it replaced."""
        self._seen += good + len(bad)
        self.counts.update(sample.reason for sample in bad)
        for sample in bad:
            row = (sample.source, sample.row)
            if self.path is not None and row not in self._listed:
                append_line(self.path, json.dumps(asdict(sample)))
                self._listed.add(row)
        total = self.counts.total()
        if total > self.max_bad_fraction * max(self._seen, MIN_SEEN):
            raise DataError(
                f"{total:,} of {self._seen:,} samples are bad, more than max_bad_fraction "
                f"{self.max_bad_fraction:g} allows: {self.summary()}",
                reason="too_many_bad",
            )

    def summary(self) -> str:
        """Format the counts by reason, with the path of the list."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.counts.most_common())
        return f"{reasons} (listed in {self.path})" if self.path is not None else reasons


def _listed(path: Path) -> set[tuple[str, int]]:
    found = set()
    for line in path.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
            found.add((entry["source"], entry["row"]))
        except (ValueError, TypeError, KeyError):
            # An incomplete line of a run that was killed while it wrote.
            continue
    return found

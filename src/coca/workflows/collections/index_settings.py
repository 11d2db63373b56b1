"""Options of indexing, declared once: keywords in Python and options of `coca index`.

This module imports no NumPy, since its options are those of a command.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from coca.core.config.execution import CERTAIN
from coca.core.config.frozen_config import Config, Fraction


class IndexSettings(Config):
    """Options of indexing.

    Raises:
        ConfigError: An option is unknown, has the wrong type or is out of range.
    """

    collection: str | None = None
    """Name of the collection; default: the only one there is, else `pictures`."""
    token: str = ""
    """`user:password` or API key of a Milvus server."""
    captions: bool = True
    """Generate captions for images that have none."""
    captions_from: Any = None
    """Model that generates the captions; default: the model of the vectors, if it has a decoder."""
    certainty: Fraction = CERTAIN
    """Least certainty of a generated caption, 0 to 1. Below it, a noun that the model is sure of
    takes its place, if there is one; 0 keeps all captions."""
    ocr: bool = False
    """Read the text inside images, which searches find by its words; also of images that were
    indexed without."""
    prune: bool = False
    """Delete the records of files that no longer exist in these sources."""
    prune_empty: bool = False
    """With `prune`: prune missing and empty folders as well. Otherwise they are assumed to be
    unmounted drives."""
    frame_interval_s: Annotated[float, Field(ge=0)] = 5.0
    """Interval between the frames of a video, in seconds; 0 skips videos."""
    read_from: list[str] | None = None
    """Folder or URL prefix that manifests may reference besides local files and public addresses,
    such as http://localhost:8000/; may be repeated."""
    dimensions: Annotated[int, Field(ge=1)] | None = None
    """Keep only the first numbers of each vector of a new collection; default: all."""
    max_bad_fraction: Fraction = 0.1
    """Stop if more than this fraction of at least 1,000 images is unreadable; then the source is
    likely at fault."""
    bad_list: Path | None = None
    """JSON Lines file that lists unreadable images, each once."""

"""Ingest with the settings of the encoder as arguments."""

from collections.abc import Callable, Sequence
from typing import Any

from coca.search.ingest import pipeline
from coca.search.ingest.encoding import Captioner, Encoder
from coca.search.ingest.ingest_report import IngestReport
from coca.search.ingest.sources import ImageSource
from coca.search.predictor import Embedder
from coca.search.store import Collection


def ingest(
    sources: Sequence[ImageSource],
    embedder: Embedder | Callable[[], Embedder],
    collection: Collection,
    *,
    captions: bool = False,
    certainty: float = 0.0,
    captioner: Captioner | None = None,
    **settings: Any,
) -> IngestReport:
    encoder = Encoder(
        embedder, collection.info, captions=captions, certainty=certainty, captioner=captioner
    )
    return pipeline.ingest(sources, encoder, collection, **settings)

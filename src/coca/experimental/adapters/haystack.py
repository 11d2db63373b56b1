"""Components of Haystack: an embedder of image documents and an embedder of query texts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from coca.core.errors import DataError
from coca.core.extras import extra_imports
from coca.inference.image_text import load
from coca.runtime.base_predictor import BasePredictor
from coca.search.query.query_terms import embed_queries

with extra_imports("haystack", extra="haystack"):
    from haystack import Document, component, default_from_dict, default_to_dict


class _LazyModel:
    """The model of a component, loaded by `warm_up` or the first run."""

    def __init__(self, model: str | Path, device: str | None) -> None:
        self.model = str(model)
        self.device = device
        self._predictor: BasePredictor | None = None

    def warm_up(self) -> None:
        """Load the model, if it is not loaded yet."""
        self._loaded()

    def _loaded(self) -> BasePredictor:
        if self._predictor is None:
            self._predictor = load(self.model, device=self.device)
        return self._predictor


@component
class CoCaTextEmbedder(_LazyModel):
    """Component that embeds a query text; the space is that of `CoCaDocumentImageEmbedder`."""

    def __init__(self, model: str | Path, *, device: str | None = None) -> None:
        """Configure the component; `warm_up` or the first run loads the model.

        Args:
            model: A name that `coca.load` accepts.
            device: Torch device; default: the first accelerator, else the CPU.
        """
        # `component` builds the class again, so `super()` without arguments does not find it.
        _LazyModel.__init__(self, model, device)

    def to_dict(self) -> dict[str, Any]:
        """Serialize the component."""
        return default_to_dict(self, model=self.model, device=self.device)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "CoCaTextEmbedder":
        """Deserialize the component."""
        return default_from_dict(cls, data)

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        """Embed a query as a vector of length 1, as `coca search` does."""
        return {"embedding": embed_queries(self._loaded().embed_texts, [text])[0].tolist()}


@component
class CoCaDocumentImageEmbedder(_LazyModel):
    """Component that embeds the image files of documents as vectors of length 1."""

    def __init__(
        self,
        model: str | Path,
        *,
        file_path_meta_field: str = "file_path",
        root_path: str = "",
        device: str | None = None,
    ) -> None:
        """Configure the component; `warm_up` or the first run loads the model.

        Args:
            model: A name that `coca.load` accepts.
            file_path_meta_field: Metadata field with the path of the image.
            root_path: Folder of relative paths. If given, images outside of it are refused.
            device: Torch device; default: the first accelerator, else the CPU.
        """
        _LazyModel.__init__(self, model, device)
        self.file_path_meta_field = file_path_meta_field
        self.root_path = root_path

    def to_dict(self) -> dict[str, Any]:
        """Serialize the component."""
        return default_to_dict(
            self,
            model=self.model,
            file_path_meta_field=self.file_path_meta_field,
            root_path=self.root_path,
            device=self.device,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "CoCaDocumentImageEmbedder":
        """Deserialize the component."""
        return default_from_dict(cls, data)

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Return copies of the documents with the embeddings of their images.

        Raises:
            DataError: A document names no image, its path is outside of `root_path`, or the image
                cannot be read.
        """
        paths = [self._path(document) for document in documents]
        vectors = self._loaded().embed_images(paths)
        source = {"type": "image", "file_path_meta_field": self.file_path_meta_field}
        return {
            "documents": [
                replace(
                    document,
                    embedding=vector.tolist(),
                    meta={**document.meta, "embedding_source": source},
                )
                for document, vector in zip(documents, vectors, strict=True)
            ]
        }

    def _path(self, document: Document) -> Path:
        named = document.meta.get(self.file_path_meta_field)
        if not isinstance(named, str | Path):
            raise DataError(
                f"document {document.id} must have the path of an image in its metadata "
                f"{self.file_path_meta_field!r}, got {named!r}"
            )
        path = Path(self.root_path, named)
        root = Path(self.root_path).resolve()
        if self.root_path and not path.resolve().is_relative_to(root):
            raise DataError(f"document {document.id} names {named}, outside of {self.root_path}")
        return path

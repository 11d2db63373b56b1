"""Input module of sentence-transformers: CoCa as a `SentenceTransformer` for texts and images.

    SentenceTransformer("runs/demo/model", trust_remote_code=True)
    sentence_transformer("everyday")

Dimensions: B batch, T tokens, S side of the image, E embedding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coca.core.errors import DataError
from coca.core.extras import extra_imports
from coca.model.coca import CoCa
from coca.model.pretrained import save_model
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.processing.processor import Processor
from coca.release.export import add_auto_map

with extra_imports("sentence_transformers", extra="sentence-transformers"):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modality import infer_modality
    from sentence_transformers.base.modules.input_module import InputModule
    from sentence_transformers.util import load_dir_path


class CoCaModule(InputModule):
    """Input module that embeds texts and images in one space; the output has length 1.

    A string that ends in the suffix of an image, such as `cat.jpg`, is the path of an image, as in
    every multimodal model of sentence-transformers.
    """

    save_in_root = True

    def __init__(self, model: CoCa, processor: Processor) -> None:
        """Wrap a model and its processor.

        Args:
            model: The model, with weights that are not prepacked, so that it can be trained and
                moved to another device.
            processor: The processor of the model.
        """
        super().__init__()
        self.model = model
        self.processor = processor

    @property
    def modalities(self) -> list[str]:
        """Modalities of the inputs."""
        return ["text", "image"]

    @property
    def max_seq_length(self) -> int:
        """Maximum number of tokens of a text, including special tokens; longer texts are cut."""
        return self.processor.context_length

    def get_embedding_dimension(self) -> int:
        """Return the size of an embedding."""
        return self.model.config.embed_dim

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **options: Any
    ) -> dict[str, Tensor]:
        """Tokenize texts, or decode and resize images.

        Args:
            inputs: A batch of texts, or a batch of images: paths, PIL images, arrays.
            prompt: Text to prepend to each text; images ignore it.
            **options: Options of other modules; not used.

        Raises:
            DataError: An image cannot be read, or the batch has texts and images.
        """
        # Of paths, sentence-transformers recognizes only strings.
        items = [str(item) if isinstance(item, Path) else item for item in inputs]
        modalities = {infer_modality(item, self.modalities) for item in items}
        if len(modalities) > 1 or not modalities <= {"text", "image"}:
            found = " and ".join(sorted(map(str, modalities)))
            raise DataError(f"a batch must contain texts only or images only, got {found}")
        modality = modalities.pop() if modalities else "text"
        if modality == "image":
            images = [item["image"] if isinstance(item, dict) else item for item in items]
            return {"pixel_values": self.processor.images(images)}
        texts = [item["text"] if isinstance(item, dict) else item for item in items]
        return {"input_ids": self.processor.texts([(prompt or "") + text for text in texts])}

    def forward(self, features: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Add the `sentence_embedding` of the features of `preprocess`."""
        if "pixel_values" in features:
            pixels = features["pixel_values"].to(self.model.log_scale.dtype)
            embedding = self.model.encode_image(pixels)
        else:
            embedding = self.model.encode_text(features["input_ids"])
        return {**features, "sentence_embedding": embedding}

    def save(self, output_path: str, *args: Any, **options: Any) -> None:
        """Save the model as a model folder, which `coca.load` and transformers read as well."""
        save_model(output_path, self.model)
        self.processor.save(output_path)
        add_auto_map(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options: Any) -> "CoCaModule":
        """Load a model folder, or a repository of the Hugging Face hub.

        Args:
            model_name_or_path: Folder or repository.
            subfolder: Folder within it.
            **options: Options of sentence-transformers, of which those of a download are used.
        """
        names = ("token", "cache_folder", "revision", "local_files_only")
        download = {name: options[name] for name in names if name in options}
        folder = load_dir_path(model_name_or_path, subfolder=subfolder, **download)
        return cls.of(folder or model_name_or_path)

    @classmethod
    def of(cls, model: str | Path) -> "CoCaModule":
        """Load a CoCa by any name that `coca.load` accepts, for inference and training."""
        loaded = load_coca(model, device="cpu", prepack=False)
        return cls(loaded.model, loaded.processor)


def sentence_transformer(model: TorchPredictor | str | Path, *, device: str | None = None) -> Any:
    """Create a `SentenceTransformer` from a CoCa, by any name that `coca.load` accepts.

    Unlike `SentenceTransformer(folder)`, this needs no `trust_remote_code`: the class of the module
    is not named by a file.

    Args:
        model: A name or folder, or a loaded model, which is used as it is.
        device: Torch device; default: the first accelerator, else the CPU.

    Raises:
        ModelError: There is no such model.
    """
    if isinstance(model, str | Path):
        module = CoCaModule.of(model)
    else:
        module = CoCaModule(model.model, model.processor)
    target = device or str(torch.accelerator.current_accelerator() or "cpu")
    return SentenceTransformer(modules=[module], device=target, similarity_fn_name="cosine")

"""Model and processor of transformers, for `AutoModel` and `AutoProcessor`.

`coca export MODEL OUT --format huggingface` writes a folder whose `auto_map` names these classes:

    model = AutoModel.from_pretrained(OUT, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(OUT, trust_remote_code=True)
    outputs = model(**processor(images=["cat.jpg"], text=["a cat", "a dog"]))
    processor.batch_decode(model.generate(**processor(images=["cat.jpg"])))

Dimensions: N images, M texts, S side of an image (pixels), T tokens, E embedding.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils.generic import ModelOutput
from transformers.utils.hub import cached_file

from coca.core.errors import ConfigError
from coca.model.generation.config import GenerationConfig as CoCaGenerationConfig
from coca.model.generation.config import GenerationOptions
from coca.model.generation.generate import generate
from coca.model.pretrained import FORMAT_VERSION, build, build_on_meta, parse_config
from coca.processing.processor import PROCESSOR_FILE, TOKENIZER_FILE, Processor
from coca.runtime.inputs import ImageInput, as_images, as_texts


class CoCaConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Configuration: the architecture and its settings, as in `config.json` of a model folder."""

    model_type = "coca_captioner"

    def __init__(
        self,
        format_version: int = FORMAT_VERSION,
        architecture: str = "coca",
        model: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """Store the settings.

        Args:
            format_version: Version of the format.
            architecture: `coca` or `openclip`.
            model: Settings of the model; default: those of the default configuration.
            **settings: Settings of transformers.
        """
        self.format_version, self.architecture, self.model = format_version, architecture, model
        super().__init__(**settings)


@dataclass
class CoCaOutput(ModelOutput):
    """Embeddings and logits of images and texts; None where there is no such input."""

    logits_per_image: Float[Tensor, "N M"] | None = None
    logits_per_text: Float[Tensor, "M N"] | None = None
    text_embeds: Float[Tensor, "M E"] | None = None
    image_embeds: Float[Tensor, "N E"] | None = None


class CoCaModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """A CoCa with the methods of a CLIP model of transformers, and `generate` for captions."""

    config_class = CoCaConfig
    base_model_prefix = "coca"
    main_input_name = "pixel_values"

    def __init__(self, config: CoCaConfig) -> None:
        super().__init__(config)
        content = {
            "format_version": config.format_version,
            "architecture": config.architecture,
            "model": config.model or {},
        }
        # `from_pretrained` builds the model on the meta device, and loads the weights afterwards.
        make = build_on_meta if torch.empty(0).is_meta else build
        self.coca = make(parse_config(content, "config.json"))
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Do nothing: `build` initializes the weights."""

    def get_image_features(
        self, pixel_values: Float[Tensor, "N 3 S S"], **unused: Any
    ) -> Float[Tensor, "N E"]:
        """Compute unit-norm embeddings of images."""
        return self.coca.encode_image(pixel_values)

    def get_text_features(
        self, input_ids: Int[Tensor, "M T"], **unused: Any
    ) -> Float[Tensor, "M E"]:
        """Compute unit-norm embeddings of texts."""
        return self.coca.encode_text(input_ids)

    def forward(
        self,
        input_ids: Int[Tensor, "M T"] | None = None,
        pixel_values: Float[Tensor, "N 3 S S"] | None = None,
        **unused: Any,
    ) -> CoCaOutput:
        """Compute embeddings of images and texts, and the logits of all pairs.

        Raises:
            ConfigError: There are neither images nor texts.
        """
        if input_ids is None and pixel_values is None:
            raise ConfigError("the model needs pixel_values, input_ids or both, got neither")
        images = None if pixel_values is None else self.coca.encode_image(pixel_values)
        texts = None if input_ids is None else self.coca.encode_text(input_ids)
        logits = None
        if images is not None and texts is not None:
            logits = self.coca.logit_scale * images @ texts.T
        return CoCaOutput(
            logits_per_image=logits,
            logits_per_text=None if logits is None else logits.T,
            text_embeds=texts,
            image_embeds=images,
        )

    @torch.no_grad()
    def generate(
        self, pixel_values: Float[Tensor, "N 3 S S"], **options: Unpack[GenerationOptions]
    ) -> Int[Tensor, "N T"]:
        """Generate the token ids of a caption for each image, padded to the longest.

        Args:
            pixel_values: Images of the processor.
            **options: Fields of `coca.model.generation.config.GenerationConfig`; default: beam
                search.
        """
        text = self.coca.config.text
        found = generate(
            self.coca,
            self.coca.image_tokens(pixel_values),
            decoding=CoCaGenerationConfig.of(None, **options),
        )
        rows = [[text.bos_id, *best[0].token_ids, text.eos_id] for best in found]
        longest = max(map(len, rows), default=0)
        padded = [[*row, *[text.pad_id] * (longest - len(row))] for row in rows]
        return torch.tensor(padded, dtype=torch.int64, device=pixel_values.device)


class CoCaProcessor:
    """Images to `pixel_values`, texts to `input_ids`, and generated ids to texts."""

    def __init__(self, processor: Processor) -> None:
        """Wrap the processor of a model."""
        self.processor = processor

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> "CoCaProcessor":
        """Load the files of a folder, or of a repository of the hub."""
        known = ("cache_dir", "force_download", "local_files_only", "revision", "token")
        kept = {name: options[name] for name in known if name in options}
        files = [cached_file(str(name), file, **kept) for file in (PROCESSOR_FILE, TOKENIZER_FILE)]
        return cls(Processor.load(Path(str(files[0])).parent))

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """Do nothing: the folder names this class already."""

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write the files of the processor."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.processor.save(folder)

    def __call__(
        self,
        images: ImageInput | Iterable[ImageInput] | None = None,
        text: str | Iterable[str] | None = None,
        **unused: Any,
    ) -> BatchFeature:
        """Prepare images and texts as tensors.

        Raises:
            ConfigError: There are neither images nor texts.
            DataError: An image cannot be read.
        """
        if images is None and text is None:
            raise ConfigError("the processor needs images, text or both, got neither")
        found: dict[str, Tensor] = {}
        if images is not None:
            found["pixel_values"] = self.processor.images(as_images(images))
        if text is not None:
            found["input_ids"] = self.processor.texts(as_texts(text))
        return BatchFeature(found)

    def batch_decode(self, ids: Sequence[Sequence[int]] | Int[Tensor, "N T"]) -> list[str]:
        """Decode generated ids to captions."""
        rows = ids.tolist() if isinstance(ids, Tensor) else ids
        bos = self.processor.tokenizer.bos_id
        decode = self.processor.tokenizer.decode
        return [decode([id for id in row if id != bos]).strip() for row in rows]

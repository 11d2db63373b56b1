"""Model and processor of transformers, for `AutoModel` and `AutoProcessor`.

`coca export MODEL OUT --format huggingface` writes a folder whose `auto_map` names these classes:

    model = AutoModel.from_pretrained(OUT, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(OUT, trust_remote_code=True)
    outputs = model(**processor(images=["cat.jpg"], text=["a cat", "a dog"]))
    processor.batch_decode(model.generate(**processor(images=["cat.jpg"]), processor=processor))

`save_pretrained` of model and processor writes a folder that `coca.load`, transformers and
sentence-transformers read. With `return_loss` in its inputs, `Trainer` trains the model.

Dimensions: N images, M texts, S side of an image (pixels), T tokens, E embedding.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformers import PretrainedConfig, PreTrainedModel
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils.generic import ModelOutput
from transformers.utils.hub import cached_file

from coca.core.errors import ConfigError
from coca.data.batch import Batch
from coca.model.coca import CoCaOutput as Outputs
from coca.model.generation.generate import generate
from coca.model.generation.generation_config import GenerationConfig as CoCaGenerationConfig
from coca.model.generation.generation_config import GenerationOptions
from coca.model.generation.random_streams import image_numbers
from coca.model.losses.contrastive_loss import clamp_temperature_
from coca.model.pretrained import FORMAT_VERSION, build, build_on_meta, parse_config, write_modules
from coca.predict.inputs import as_images, as_texts
from coca.processing.caption_words import CAPTION_WORDS_FILE
from coca.processing.class_words import CLASS_WORDS_FILE
from coca.processing.image_file import ImageInput
from coca.processing.processor import PROCESSOR_FILE, TOKENIZER_FILE, Processor
from coca.processing.tokenizer import PAD_ID
from coca.release.export import map_model, map_processor
from coca.train.losses import LossConfig
from coca.train.objective import CoCaObjective


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

    @classmethod
    def register_for_auto_class(cls, auto_class: str | type = "AutoConfig") -> None:
        """Do nothing: `save_pretrained` names this class in the folder.

        transformers would copy this module as `transformers.py`, which hides the library from a
        Python process in that folder.
        """

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **options: Any
    ) -> None:
        """Write `config.json` with its `auto_map`; options as in transformers."""
        super().save_pretrained(save_directory, push_to_hub, **options)
        map_model(Path(save_directory))


@dataclass
class CoCaModelOutput(ModelOutput):
    """Embeddings and logits of images and texts; None where there is no such input."""

    loss: Float[Tensor, ""] | None = None
    """Weighted sum of contrastive and captioning loss, in nats; only with `return_loss`."""
    logits_per_image: Float[Tensor, "N M"] | None = None
    logits_per_text: Float[Tensor, "M N"] | None = None
    text_embeds: Float[Tensor, "M E"] | None = None
    image_embeds: Float[Tensor, "N E"] | None = None


class CoCaModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """A CoCa with the methods of a CLIP model of transformers, and `generate` for captions."""

    config_class = CoCaConfig
    base_model_prefix = "coca"
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False
    """`Trainer` divides the loss by its steps of gradient accumulation: the loss is a mean."""

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
        return self.coca.encode_image(pixel_values.to(self.dtype))

    def get_text_features(
        self, input_ids: Int[Tensor, "M T"], **unused: Any
    ) -> Float[Tensor, "M E"]:
        """Compute unit-norm embeddings of texts."""
        return self.coca.encode_text(input_ids)

    def forward(
        self,
        input_ids: Int[Tensor, "M T"] | None = None,
        pixel_values: Float[Tensor, "N 3 S S"] | None = None,
        return_loss: bool | None = None,
        **unused: Any,
    ) -> CoCaModelOutput:
        """Compute embeddings of images and texts, and the logits of all pairs.

        Args:
            input_ids: Texts of the processor.
            pixel_values: Images of the processor.
            return_loss: Also compute the training loss of CoCa, with the weights of `LossConfig`.
                It needs one text per image. In training, the temperature is clamped first.
            **unused: Further inputs of transformers.
        """
        if input_ids is None and pixel_values is None:
            raise ConfigError("the model needs pixel_values, input_ids or both, got neither")
        if return_loss:
            return self._with_loss(input_ids, pixel_values)
        images = None if pixel_values is None else self.get_image_features(pixel_values)
        texts = None if input_ids is None else self.get_text_features(input_ids)
        return self._output(images, texts)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        *arguments: Any,
        **options: Any,
    ) -> None:
        """Write a model folder, which `coca.load` and sentence-transformers read as well.

        Args:
            save_directory: Target folder.
            is_main_process: Whether this process writes the files.
            state_dict: Weights to save; default: those of the model.
            *arguments: Further arguments of transformers, in its order.
            **options: Further options of transformers. `max_shard_size` and `variant` change the
                files of the weights, and `coca.load` then does not find them.
        """
        adapted = getattr(self, "_hf_peft_config_loaded", False)
        if not adapted:
            # In a model folder, weights have the names of `self.coca`.
            named = self.state_dict() if state_dict is None else state_dict
            prefix = f"{self.base_model_prefix}."
            state_dict = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
        if is_main_process and not adapted:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            write_modules(Path(save_directory))
        super().save_pretrained(save_directory, is_main_process, state_dict, *arguments, **options)

    @classmethod
    def register_for_auto_class(cls, auto_class: str | type = "AutoModel") -> None:
        """Do nothing; see `CoCaConfig.register_for_auto_class`."""

    @torch.no_grad()
    def generate(
        self,
        pixel_values: Float[Tensor, "N 3 S S"],
        processor: "CoCaProcessor | None" = None,
        **options: Unpack[GenerationOptions],
    ) -> Int[Tensor, "M T"]:
        """Generate the token ids of captions, padded to the longest.

        As in transformers, `num_return_sequences` above 1 returns that many rows for each image in
        turn, best first, and a caption that reached `max_new_tokens` has no end token.

        Args:
            pixel_values: Images of the processor.
            processor: Processor of the model, for captions with only the words of its list. None:
                any tokens.
            **options: Fields of `coca.model.generation.generation_config.GenerationConfig`;
                default: beam search.

        Raises:
            ConfigError: An option is invalid, or `words` is given without `processor`.
        """
        text = self.coca.config.text
        decoding = CoCaGenerationConfig.of(None, **options)
        if processor is None and options.get("words", "any") != "any":
            raise ConfigError(
                f"words {decoding.words!r} needs the list of the processor; pass "
                "processor=processor, or words='any'"
            )
        own = None if processor is None else processor.processor
        pixels, likely = pixel_values.to(self.dtype), None
        if own is not None and own.class_nouns:
            encoded = self.coca.encode(pixels)
            tokens = self.coca.pool_tokens(encoded)
            if encoded.probabilities is not None:
                likely = encoded.probabilities.float().cpu().numpy()
        else:
            tokens = self.coca.image_tokens(pixels)
        found = generate(
            self.coca,
            tokens,
            decoding=decoding,
            constraint=None if own is None else own.word_constraint(decoding.words),
            images=image_numbers(pixel_values.float().cpu().numpy()) if decoding.sampled else None,
            probabilities=likely,
        )
        rows = [
            [text.bos_id, *one.token_ids, *[text.eos_id] * one.ended]
            for best in found
            for one in best
        ]
        longest = max(map(len, rows), default=0)
        padded = [[*row, *[text.pad_id] * (longest - len(row))] for row in rows]
        return torch.tensor(padded, dtype=torch.int64, device=pixel_values.device)

    def _with_loss(
        self, input_ids: Int[Tensor, "M T"] | None, pixel_values: Float[Tensor, "N 3 S S"] | None
    ) -> CoCaModelOutput:
        counts = [0 if given is None else len(given) for given in (pixel_values, input_ids)]
        if pixel_values is None or input_ids is None or counts[0] != counts[1]:
            raise ConfigError(
                f"the loss needs one text per image, got {counts[0]} images and {counts[1]} texts"
            )
        if self.training:
            clamp_temperature_(self.coca.log_scale)
        biased = self.coca.logit_bias is not None
        objective = CoCaObjective(LossConfig(contrastive="sigmoid" if biased else "softmax"))
        keys = tuple(map(str, range(len(input_ids))))
        batch = Batch(pixel_values.to(self.dtype), input_ids, keys, start=0)
        output: Outputs = self.coca(batch.images, batch.tokens)
        assert output.image_embedding is not None
        assert output.text_embedding is not None
        made = self._output(output.image_embedding, output.text_embedding)
        made.loss = objective.of_output(self.coca, batch, output).total
        return made

    def _output(
        self, images: Float[Tensor, "N E"] | None, texts: Float[Tensor, "M E"] | None
    ) -> CoCaModelOutput:
        logits = None
        if images is not None and texts is not None:
            logits = self.coca.logit_scale * images @ texts.T
            if self.coca.logit_bias is not None:
                logits = logits + self.coca.logit_bias
        return CoCaModelOutput(
            logits_per_image=logits,
            logits_per_text=None if logits is None else logits.T,
            text_embeds=texts,
            image_embeds=images,
        )


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
        for file in (CAPTION_WORDS_FILE, CLASS_WORDS_FILE):
            cached_file(str(name), file, _raise_exceptions_for_missing_entries=False, **kept)
        return cls(Processor.load(Path(str(files[0])).parent))

    @classmethod
    def register_for_auto_class(cls, auto_class: str | type = "AutoProcessor") -> None:
        """Do nothing; see `CoCaConfig.register_for_auto_class`."""

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Write the files of the processor, for `coca.load` and `AutoProcessor`."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.processor.save(folder)
        map_processor(folder)

    def __call__(
        self,
        images: ImageInput | Iterable[ImageInput] | None = None,
        text: str | Iterable[str] | None = None,
        padding: bool | str = True,
        **unused: Any,
    ) -> BatchFeature:
        """Prepare images and texts as tensors.

        Args:
            images: One or many.
            text: One or many.
            padding: `"max_length"` pads texts to the context length, so that samples that are
                prepared one by one can be stacked; otherwise to the longest text.
            **unused: Further options of transformers, such as `return_tensors`.
        """
        if images is None and text is None:
            raise ConfigError("the processor needs images, text or both, got neither")
        found: dict[str, Tensor] = {}
        if images is not None:
            found["pixel_values"] = self.processor.images(as_images(images))
        if text is not None:
            tokens = self.processor.texts(as_texts(text))
            if padding == "max_length":
                room = self.processor.context_length - tokens.shape[1]
                tokens = pad(tokens, (0, room), value=PAD_ID)
            found["input_ids"] = tokens
        return BatchFeature(found)

    def batch_decode(
        self, ids: Sequence[Sequence[int]] | Int[Tensor, "N T"], **unused: Any
    ) -> list[str]:
        """Decode generated ids to captions, without special tokens."""
        rows = ids.tolist() if isinstance(ids, Tensor) else ids
        bos = self.processor.tokenizer.bos_id
        decode = self.processor.tokenizer.decode
        return [decode([id for id in row if id != bos]).strip() for row in rows]

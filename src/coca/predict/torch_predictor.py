"""Predictor on torch: embeddings, captions, scores and labels from images and texts.

    predictor = coca.load()
    predictor.embed_images(["cat.jpg"]) @ predictor.embed_texts(["a cat", "a dog"]).T

Dimensions: N images or texts, B batch, M texts scored against N images, E shared embedding,
K labels, S side of the model's input (pixels), F images of a clip, Q image tokens, C their width,
T tokens of a text.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Unpack, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, UInt8
from numpy import ndarray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from coca.core.errors import ConfigError, DataError
from coca.core.progress import progress_bar
from coca.model.class_coca import ClassCoCa
from coca.model.coca import CoCa
from coca.model.coca_config import HeadConfig
from coca.model.generation.generate import generate
from coca.model.generation.generation_config import (
    GeneratedSequence,
    GenerationConfig,
    GenerationOptions,
)
from coca.model.generation.random_streams import image_numbers
from coca.model.generation.scoring import score_captions, scored_lengths
from coca.model.heads import head_logits, head_of, head_tokens
from coca.model.layers.prepacked import prepack_weights
from coca.model.openclip.openclip import OpenCLIP
from coca.predict.inputs import (
    Caption,
    OnError,
    SampleImages,
    SeenImages,
    caption_of,
    expand_positions,
    unique_samples,
    with_skips,
)
from coca.predict.predictor import Predictor
from coca.predict.short_vectors import normalized
from coca.processing.class_words import ClassNoun
from coca.processing.image_file import ImageInput
from coca.processing.processor import Processor


class TorchPredictor(Predictor):
    """A model of torch with its processor for inference."""

    def __init__(
        self,
        model: CoCa,
        processor: Processor,
        *,
        fingerprint: str,
        source: str = "",
        batch_size: int = 64,
        prepack: bool = False,
    ) -> None:
        """Create a predictor from a loaded model and processor; `load` does so from a folder.

        Args:
            model: The model, on its device and in its precision.
            processor: The processor that the model was trained with.
            fingerprint: Identifies model and processor; only vectors of equal ones are comparable.
            source: Name or folder that the model was loaded from, for display.
            batch_size: Images or texts per batch, at least 1.
            prepack: Prepack the weights for CPU inference, as `load` does; not for training.
        """
        super().__init__(source=source, batch_size=batch_size)
        self.model = model.eval()
        self.processor = processor
        self.fingerprint = fingerprint
        self.image_settings = processor.image_config.settings(resampler="torch")
        if prepack:
            prepack_weights(self.model)

    @property
    def embed_dim(self) -> int:
        return self.dimensions or self.model.config.embed_dim

    @property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.detach())

    @property
    def context_length(self) -> int:
        return self.processor.context_length

    @property
    def max_text_tokens(self) -> int:
        return self.processor.context_length - self.processor.tokenizer.reserved

    @property
    def classes(self) -> tuple[str, ...]:
        head = self.model.config.head
        return () if head is None else head.classes

    @property
    def class_vectors(self) -> Float32[ndarray, "K E"] | None:
        if not isinstance(self.model, ClassCoCa) or self.model.class_branch is None:
            return None
        return normalized(self.model.class_branch.vectors.detach().cpu().numpy())

    @property
    def class_nouns(self) -> tuple[ClassNoun, ...]:
        return self.processor.class_nouns

    @property
    def answers_questions(self) -> bool:
        head = self.model.config.head
        return head is not None and head.reads == "text"

    @property
    def images_per_sample(self) -> int:
        head = self.model.config.head
        return 1 if head is None else head.images_per_sample

    def leading_ids(self, text: str, count: int) -> list[int]:
        return self.processor.tokenizer.leading_ids(text, count)

    def prepare_image(self, image: ImageInput) -> UInt8[ndarray, "3 S S"]:
        transform = self.processor.image
        return transform.square(transform.read(image)).numpy()

    @torch.inference_mode()
    def embed_clips(self, clips: Sequence[Sequence[ImageInput]]) -> Float32[ndarray, "N E"]:
        return self._stacked(
            [
                self._short(self._encode_images(self._placed(self.processor.images(clip))[None]))[0]
                for (clip,) in self._batches(clips, "embedding clips", size=1)
            ]
        )

    @torch.inference_mode()
    def caption_clips(
        self,
        clips: Sequence[Sequence[ImageInput]],
        *,
        prompt: str = "",
        decoding: GenerationConfig | None = None,
        **options: Unpack[GenerationOptions],
    ) -> list[Caption]:
        decoding, begun = GenerationConfig.of(decoding, **options), self._encode_prompt(prompt)
        captions = []
        for (clip,) in self._batches(clips, "captioning clips", size=1):
            pixels = self._placed(self.processor.images(clip))[None]
            (written,) = self._generate(self._image_tokens(pixels), [begun], decoding, pixels)
            captions.append(caption_of(written, begun, self._decode))
        return captions

    def head_logits(
        self,
        samples: Sequence[SampleImages],
        texts: Sequence[str] | None = None,
        *,
        on_error: OnError = "raise",
    ) -> Float[ndarray, "N K"]:
        head = head_of(self.model).config
        asked = check_texts(head, texts, len(samples))
        size = max(1, self.batch_size // head.images_per_sample)

        @torch.inference_mode()
        def work(chosen: Sequence[int]) -> list[ndarray]:
            unique, positions = unique_samples([samples[it] for it in chosen])
            logits = np.zeros((len(chosen), len(head.classes)), np.float32)
            for batch in self._batches(unique, "answering", size=size):
                pixels = self._placed(self.processor.images(flatten_images(head, batch)))
                shape = (len(batch), head.images_per_sample)
                seen = head_tokens(self.model, pixels).unflatten(0, shape)
                here, positions = positions[: len(batch)], positions[len(batch) :]
                for rows, wanted in expand_positions(here, size):
                    questions = None if asked is None else [asked[chosen[it]] for it in wanted]
                    tokens = None if questions is None else self._tokens(questions)
                    found = head_logits(self.model, seen[rows].flatten(0, 1), tokens)
                    logits[wanted] = found.float().cpu().numpy()
            return list(logits)

        def check(position: int) -> None:
            for image in flatten_images(head, [samples[position]]):
                self.prepare_image(image)

        missing = np.full(len(head.classes), np.nan, np.float32)
        rows = with_skips(
            len(samples),
            work,
            check=check,
            placeholder=lambda error: missing,
            on_error=on_error,
            batch_size=size,
            title="answering",
        )
        return np.stack(rows) if rows else np.zeros((0, len(head.classes)), np.float32)

    @property
    def _device(self) -> torch.device:
        return self.model.log_scale.device

    def _read_ahead(
        self, images: Sequence[ImageInput], title: str
    ) -> Iterator[Float[Tensor, "B 3 S S"]]:
        """Yield batches of pixels; the next batch is read while the model computes the current."""
        starts = range(0, len(images), self.batch_size)
        batches = (images[start : start + self.batch_size] for start in starts)
        with progress_bar(title, len(images)) as bar:
            for pixels in self.processor.image_batches(batches):
                yield self._placed(pixels)
                bar.advance(len(pixels))

    def _placed(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        return pixels.to(self._device, self.model.log_scale.dtype)

    @torch.inference_mode()
    def _from_squares(self, squares: UInt8[ndarray, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        pixels = torch.from_numpy(squares).to(self._device, non_blocking=True)
        return self.processor.image.normalize(pixels).to(self.model.log_scale.dtype)

    @torch.inference_mode()
    def _encode_images(self, pixels: Float[Tensor, "B *F 3 S S"]) -> Float32[ndarray, "B D"]:
        return self.model.encode_image(pixels).float().cpu().numpy()

    @torch.inference_mode()
    def _encode_and_classify(
        self, pixels: Float[Tensor, "B *F 3 S S"]
    ) -> tuple[Float32[ndarray, "B D"], Float32[ndarray, "B C"] | None]:
        if not self.class_nouns:
            return self._encode_images(pixels), None
        encoded = self.model.encode(pixels)
        vectors = self.model.pool_embedding(encoded).float().cpu().numpy()
        return vectors, _as_array(encoded.probabilities)

    @torch.inference_mode()
    def _image_tokens(self, pixels: Float[Tensor, "B *F 3 S S"]) -> SeenImages:
        if self.class_nouns:
            return self._encode_images_and_tokens(pixels)[1]
        return SeenImages(self.model.image_tokens(pixels))

    @torch.inference_mode()
    def _encode_images_and_tokens(
        self, pixels: Float[Tensor, "B *F 3 S S"]
    ) -> tuple[Float32[ndarray, "B D"], SeenImages]:
        encoded = self.model.encode(pixels)
        embeddings, tokens = self.model.pool(encoded)
        vectors = embeddings.float().cpu().numpy()
        return vectors, SeenImages(tokens, _as_array(encoded.probabilities), vectors)

    def _tokens(self, texts: Sequence[str]) -> Int[Tensor, "B T"]:
        return self.processor.texts(texts).to(self._device)

    @torch.inference_mode()
    def _encode_texts(self, tokens: Int[Tensor, "B T"]) -> Float32[ndarray, "B D"]:
        return self.model.encode_text(tokens).float().cpu().numpy()

    def _encode_prompt(self, text: str) -> list[int]:
        return self.processor.tokenizer.encode_prompt(text)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.processor.tokenizer.decode(ids).strip()

    def _generate(
        self,
        seen: SeenImages,
        prompts: Sequence[list[int]],
        decoding: GenerationConfig,
        pixels: Float[Tensor, "B *F RGB height width"] | None,
    ) -> list[list[GeneratedSequence]]:
        return generate(
            self.model,
            seen.tokens,
            prompts=prompts,
            decoding=decoding,
            constraint=self.processor.word_constraint(decoding.words),
            images=None
            if pixels is None or not decoding.sampled
            else image_numbers(pixels.float().cpu().numpy()),
            probabilities=seen.probabilities,
        )

    def _score_tokens(
        self,
        image_tokens: Float[Tensor, "B Q C"],
        tokens: Int[Tensor, "M T"],
        only: Bool[ndarray, "B M"] | None = None,
        *,
        end: bool = True,
    ) -> Float32[ndarray, "B M"]:
        pairs = None if only is None else torch.from_numpy(only)
        return score_captions(self.model, image_tokens, tokens, only=pairs, end=end).cpu().numpy()

    @torch.inference_mode()
    def _word_maps(
        self, seen: SeenImages, words: Sequence[str]
    ) -> Float32[ndarray, "M h w"] | None:
        # Each cell is pooled alone, as in MaskCLIP (arXiv 2112.01071). Of four photos on a board,
        # this finds the named one for 74 % of names, and the decoder's cross-attention for 25 %.
        model, image = self.model, self.model.config.image
        # Tokens of a captioning pooler belong to no cell; a frozen encoder pools by its library.
        if isinstance(model, OpenCLIP) or model.config.pooler.kind != "none":
            return None
        if model.contrastive_pooler is None:
            return None
        side = image.image_size // image.patch_size
        first = getattr(model.image_encoder, "extra_tokens", 0)
        pooled = model.contrastive_pooler(seen.tokens[0, first : first + side**2, None])[:, 0]
        vectors = F.normalize(model.image_projection(pooled).float(), dim=1).cpu().numpy()
        maps = self.embed_texts(words) @ self._short(vectors).T
        return maps.reshape(len(words), side, side)

    def _scored_lengths(self, tokens: Int[Tensor, "M T"]) -> Int[ndarray, " M"]:
        return scored_lengths(self.model, tokens).cpu().numpy()


# Inputs of a model's classification head.


def require_coca(predictor: Predictor) -> TorchPredictor:
    """Return a predictor unchanged if it is a CoCa model on torch."""
    if not isinstance(predictor, TorchPredictor):
        raise ConfigError(f"{predictor.source} is not a CoCa model on torch, which this needs")
    return predictor


def _as_array(probabilities: Float[Tensor, "B C"] | None) -> Float32[ndarray, "B C"] | None:
    return None if probabilities is None else probabilities.float().cpu().numpy()


def check_texts(head: HeadConfig, texts: Sequence[str] | None, samples: int) -> list[str] | None:
    """Check the texts of the samples against the head."""
    if (texts is not None) != (head.reads == "text"):
        raise ConfigError(
            "this head reads text: give a question or statement for each sample"
            if texts is None
            else "this head reads images only: leave the texts out"
        )
    if texts is not None and len(texts) != samples:
        raise ConfigError(f"{len(texts)} texts were given for {samples} samples")
    return None if texts is None else list(texts)


def flatten_images(head: HeadConfig, samples: Sequence[SampleImages]) -> list[ImageInput]:
    """Flatten the samples into one list of images."""
    found: list[ImageInput] = []
    for position, sample in enumerate(samples):
        single = isinstance(sample, str | bytes | Path | Image.Image | ndarray)
        images = cast(Sequence[ImageInput], [sample] if single else sample)
        if len(images) != head.images_per_sample:
            raise DataError(
                f"sample {position} has {len(images)} images, but the head reads "
                f"{head.images_per_sample}",
                reason="image_count",
            )
        found += images
    return found

"""Predictor: embeddings, captions, scores and labels from images and texts.

    predictor = coca.load()
    predictor.embed_images(["cat.jpg"]) @ predictor.embed_texts(["a cat", "a dog"]).T

Dimensions: N images or texts, M texts scored against N images, E shared embedding, K labels.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, TypeVar, Unpack

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from coca.core.errors import ConfigError, DataError
from coca.core.progress import ProgressMaker, ProgressOption, as_maker
from coca.inference.outputs import (
    Caption,
    SampleImages,
    captions_of,
    check_texts,
    flatten_images,
    head_of,
)
from coca.inference.prompts import PROMPTS, Templates, class_means, sentences_of
from coca.model.captioner import Captioner
from coca.model.generation.generate import generate
from coca.model.generation.generation_config import GenerationConfig, GenerationOptions
from coca.model.generation.scoring import score_captions, scored_lengths
from coca.model.layers.prepacked import prepack_weights
from coca.processing.processor import Processor
from coca.runtime.inputs import (
    ImageInput,
    Prediction,
    as_images,
    as_texts,
    predictions,
    prompts_for,
    skipped_caption,
)
from coca.runtime.method_names import missing_method
from coca.runtime.unreadable import OnError, with_skips

# Deduplication of repeated samples, so that each distinct image is encoded once.


T = TypeVar("T")


def unique_samples(samples: Sequence[T]) -> tuple[list[T], list[list[int]]]:
    """Return the distinct samples in order of first occurrence, and all positions of each.

    Paths and encoded images are compared by value, opened images by identity.
    """
    positions: dict[Hashable, list[int]] = {}
    for position, sample in enumerate(samples):
        positions.setdefault(_key(sample), []).append(position)
    return [samples[found[0]] for found in positions.values()], [*positions.values()]


def expand_positions(
    positions: Sequence[Sequence[int]], size: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Expand a batch of distinct samples to all their positions, `size` positions at a time.

    Yields:
        Row in the batch and position in the output, for each position.
    """
    pairs = iter([(row, position) for row, found in enumerate(positions) for position in found])
    while part := list(islice(pairs, size)):
        yield [row for row, _ in part], [position for _, position in part]


def _key(sample: object) -> Hashable:
    if isinstance(sample, str | bytes | Path):
        return sample
    if isinstance(sample, list | tuple):
        return tuple(map(_key, sample))
    return id(sample)


class Predictor:
    """A model with its processor for inference; batches inputs, keeps no state between calls."""

    def __init__(
        self,
        model: Captioner,
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
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1 (got {batch_size})")
        self.model = model.eval()
        self.processor = processor
        self.fingerprint = fingerprint
        self.source = source
        self.batch_size = batch_size
        if prepack:
            prepack_weights(self.model)

    if not TYPE_CHECKING:  # type checkers would accept every name

        def __getattr__(self, name: str) -> NoReturn:
            raise missing_method(self, name)

    @property
    def embed_dim(self) -> int:
        """Dimension of the embeddings."""
        return self.model.config.embed_dim

    @property
    def logit_scale(self) -> float:
        """Factor from cosine similarity to logit: one over the learned temperature."""
        return float(self.model.logit_scale.detach())

    def embed_images(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: OnError = "raise",
        progress: ProgressOption = False,
    ) -> Float[ndarray, "N E"]:
        """Compute one unit-norm embedding per image; a single image is a list of one.

        Args:
            images: One or many.
            on_error: `raise` at an unreadable image, or `skip` it: its row is NaN.
            progress: Optional progress callback, or True for a line on stderr.

        Raises:
            DataError: An image cannot be read; the message names it.
        """
        image_list = as_images(images)

        @torch.inference_mode()
        def work(chosen: Sequence[int], maker: ProgressMaker) -> list[ndarray]:
            here = [image_list[it] for it in chosen]
            batches = (
                self.model.encode_image(pixels).float().cpu().numpy()
                for pixels in self._read_ahead(here, "embedding images", maker)
            )
            return [row for batch in batches for row in batch]

        missing = np.full(self.embed_dim, np.nan, np.float32)
        rows = self._per_image(
            image_list,
            work,
            lambda error: missing,
            on_error=on_error,
            title="embedding images",
            progress=progress,
        )
        return self._stacked([row[None] for row in rows])

    def prepare_image(self, image: ImageInput) -> UInt8[torch.Tensor, "3 S S"]:
        """Decode and resize one image for `embed_prepared`; thread-safe.

        Raises:
            DataError: The image cannot be read.
        """
        transform = self.processor.image
        return transform.square(transform.read(image))

    @torch.inference_mode()
    def embed_prepared(
        self, images: Sequence[UInt8[torch.Tensor, "3 S S"]]
    ) -> Float[ndarray, "N E"]:
        """Compute one unit-norm embedding per output of `prepare_image`, all in one batch."""
        pixels = torch.stack(list(images)).to(self._device, non_blocking=True)
        ready = self.processor.image.normalize(pixels).to(self.model.log_scale.dtype)
        return self.model.encode_image(ready).float().cpu().numpy()

    @torch.inference_mode()
    def embed_texts(
        self, texts: str | Iterable[str], *, progress: ProgressOption = False
    ) -> Float[ndarray, "N E"]:
        """Compute one unit-norm embedding per text; a single text is a list of one."""
        rows = [
            self.model.encode_text(self._tokens(batch)).float().cpu().numpy()
            for batch in self._batches(as_texts(texts), "embedding texts", as_maker(progress))
        ]
        return self._stacked(rows)

    def caption(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        prompt: str | Iterable[str] = "",
        decoding: GenerationConfig | None = None,
        on_error: OnError = "raise",
        progress: ProgressOption = False,
        **options: Unpack[GenerationOptions],
    ) -> list[Caption]:
        """Generate a caption for each image, by beam search unless the options choose otherwise.

            predictor.caption("cat.jpg")[0].text
            predictor.caption(files, num_beams=1)                           greedy
            predictor.caption(files, num_return_sequences=3)[0].others      the next best two
            predictor.caption(files, temperature=0.8, seed=1)               sampled

        Args:
            images: One or many.
            prompt: Text that each caption begins with, or one text per image; default: none.
            decoding: Decoding strategy; default: beam search.
            on_error: `raise` at an unreadable image, or `skip` it: its caption is empty, and
                has the `error`.
            progress: Optional progress callback, or True for a line on stderr.
            **options: Fields of `GenerationConfig`, which take precedence over `decoding`.

        Returns:
            The best caption of each image. `num_return_sequences` above 1 fills its `others`.

        Raises:
            DataError: An image cannot be read.
            ConfigError: Options conflict, a prompt fills the context, or images lack prompts.
        """
        decoding, tokenizer = GenerationConfig.of(decoding, **options), self.processor.tokenizer
        image_list = as_images(images)
        prompts = [*map(tokenizer.encode_prompt, prompts_for(prompt, len(image_list)))]

        @torch.inference_mode()
        def work(chosen: Sequence[int], maker: ProgressMaker) -> list[Caption]:
            unique, positions = unique_samples([image_list[it] for it in chosen])
            found: dict[int, Caption] = {}
            for pixels in self._read_ahead(unique, "captioning", maker):
                tokens = self.model.image_tokens(pixels)
                here, positions = positions[: len(pixels)], positions[len(pixels) :]
                for rows, wanted in expand_positions(here, self.batch_size):
                    begun = [prompts[chosen[position]] for position in wanted]
                    written = generate(self.model, tokens[rows], prompts=begun, decoding=decoding)
                    for position, one, prefix in zip(wanted, written, begun, strict=True):
                        found[position] = captions_of(one, tokenizer, prompt=prefix)
            return [found[position] for position in range(len(chosen))]

        return self._per_image(
            image_list,
            work,
            skipped_caption,
            on_error=on_error,
            title="captioning",
            progress=progress,
        )

    def score(
        self,
        images: ImageInput | Iterable[ImageInput],
        texts: str | Iterable[str],
        *,
        by_length: bool = False,
        only: Bool[ndarray, "N M"] | None = None,
        on_error: OnError = "raise",
        progress: ProgressOption = False,
    ) -> Float[ndarray, "N M"]:
        """Compute the log-likelihood log p(text | image) of all pairs, in nats.

        Each image is encoded once. The sum does not compare texts of different lengths fairly.
        It does compare images for the same text. Texts beyond the context length are truncated.

        Args:
            images: One or many.
            texts: One or many.
            by_length: Return the mean over the tokens and the end token instead of the sum.
            only: Mask of the pairs to score; other pairs get minus infinity. Default: all pairs.
            on_error: `raise` at an unreadable image, or `skip` it: its row is NaN.
            progress: Optional progress callback, or True for a line on stderr.

        Raises:
            DataError: An image cannot be read.
            ConfigError: `only` is not N x M.
        """
        image_list, tokens = as_images(images), self._tokens(as_texts(texts))
        shape = (len(image_list), len(tokens))
        if only is not None and only.shape != shape:
            raise ConfigError(f"only must have the shape of the scores, {shape}, got {only.shape}")

        @torch.inference_mode()
        def work(chosen: Sequence[int], maker: ProgressMaker) -> list[Tensor]:
            rows: list[Tensor] = []
            for pixels in self._read_ahead(
                [image_list[it] for it in chosen], "scoring captions", maker
            ):
                here = list(chosen[len(rows) : len(rows) + len(pixels)])
                pairs = None if only is None else torch.from_numpy(only[here])
                seen = self.model.image_tokens(pixels)
                rows += score_captions(self.model, seen, tokens, only=pairs).unbind()
            return rows

        missing = torch.full((len(tokens),), torch.nan, device=self._device)
        rows = self._per_image(
            image_list,
            work,
            lambda error: missing,
            on_error=on_error,
            title="scoring captions",
            progress=progress,
        )
        scores = torch.stack(rows) if rows else torch.zeros(0, len(tokens))
        if by_length:
            scores = scores / scored_lengths(self.model, tokens)
        return scores.cpu().numpy()

    def class_embeddings(
        self,
        labels: str | Iterable[str],
        *,
        templates: Templates = PROMPTS["plain"],
        progress: ProgressOption = False,
    ) -> Float[ndarray, "K E"]:
        """Compute one unit-norm class embedding per label: the mean over its prompts (as in CLIP).

        Raises:
            ConfigError: No label, a repeated label, no prompt for a label, no `{}` in a template.
        """
        groups = sentences_of(as_texts(labels), templates)
        vectors = self.embed_texts([text for group in groups for text in group], progress=progress)
        return class_means(vectors, groups)

    def class_log_likelihoods(
        self,
        images: ImageInput | Iterable[ImageInput],
        labels: str | Iterable[str],
        *,
        templates: Templates = PROMPTS["plain"],
        only: Bool[ndarray, "N K"] | None = None,
        on_error: OnError = "raise",
        progress: ProgressOption = False,
    ) -> Float[ndarray, "N K"]:
        """Compute the log-likelihood of each label's prompts, in nats.

        Probabilities, not their logarithms, are averaged over the templates.

        Args:
            images: One or many.
            labels: Names of the classes.
            templates: Prompts with `{}` for the label, or separate prompts for each label.
            only: Mask of the pairs to score; other pairs get minus infinity. Default: all pairs.
            on_error: `raise` at an unreadable image, or `skip` it: its row is NaN.
            progress: Optional progress callback, or True for a line on stderr.

        Raises:
            DataError: An image cannot be read.
            ConfigError: As `class_embeddings`.
        """
        groups = sentences_of(as_texts(labels), templates)
        counts = [len(group) for group in groups]
        pairs = None if only is None else only.repeat(counts, axis=1)
        sentences = [text for group in groups for text in group]
        each = self.score(images, sentences, only=pairs, on_error=on_error, progress=progress)
        parts = np.split(each, _ends(groups), axis=1)
        with np.errstate(invalid="ignore"):  # of the NaN of skipped images
            totals = np.stack([np.logaddexp.reduce(part, axis=1) for part in parts], axis=1)
        return totals - np.log(np.array(counts, np.float32))

    def classify(
        self,
        images: ImageInput | Iterable[ImageInput],
        labels: str | Iterable[str] | None = None,
        *,
        templates: Templates | None = None,
        by: Literal["similarity", "likelihood"] = "similarity",
        on_error: OnError = "raise",
        progress: ProgressOption = False,
    ) -> list[list[Prediction]]:
        """Classify images: rank the labels by probability for each image.

            predictor.classify(files, ["car", "frog"])      zero-shot
            predictor.classify(files)                       by the head of a fine-tuned model

        Args:
            images: One or many.
            labels: Names to choose from; default: the classes of the model's head.
            templates: Prompts with `{}` for the label, or separate prompts for each label. A
                label's vector is the mean over its prompts. Default: the label itself.
            by: `similarity` compares embeddings. `likelihood` compares the captioner's
                probability of the prompts, averaged over the templates; it is slower and favours
                short and frequent names.
            on_error: `raise` at an unreadable image, or `skip` it: it has no predictions.
            progress: Optional progress callback, or True for a line on stderr.

        Raises:
            DataError: An image cannot be read.
            ConfigError: As `class_embeddings`, `by` is neither of the two, or there are no labels
                and the model has no head that classifies images.
        """
        if labels is None:
            self._check_image_head(prompted=templates is not None or by != "similarity")
            return self.answer(as_images(images), on_error=on_error, progress=progress)
        labels, templates = as_texts(labels), PROMPTS["plain"] if templates is None else templates
        if by == "similarity":
            classes = self.class_embeddings(labels, templates=templates)
            vectors = self.embed_images(images, on_error=on_error, progress=progress)
            logits = self.logit_scale * vectors @ classes.T
        elif by == "likelihood":
            logits = self.class_log_likelihoods(
                images, labels, templates=templates, on_error=on_error, progress=progress
            )
        else:
            raise ConfigError(f"by is {by!r}; choose one of similarity, likelihood")
        return predictions(logits, labels)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the model's head; empty without a head."""
        return () if self.model.head is None else self.model.head.config.classes

    def head_logits(
        self,
        samples: Sequence[SampleImages],
        texts: Sequence[str] | None = None,
        *,
        on_error: OnError = "raise",
        progress: ProgressOption = False,
    ) -> Float[ndarray, "N K"]:
        """Compute the logits of the head's classes; repeated samples are encoded once.

        Args:
            samples: The image of each sample, or its images in order for a head that reads several.
            texts: The question or statement of each sample, for a head that reads text.
            on_error: `raise` at an unreadable image, or `skip` its sample: its row is NaN.
            progress: Optional progress callback, or True for a line on stderr.

        Raises:
            ConfigError: The model has no head, or `texts` do not fit the head.
            DataError: An image cannot be read, or a sample has the wrong number of images.
        """
        head = head_of(self.model)
        asked = check_texts(head, texts, len(samples))
        size = max(1, self.batch_size // head.images_per_sample)

        @torch.inference_mode()
        def work(chosen: Sequence[int], maker: ProgressMaker) -> list[ndarray]:
            unique, positions = unique_samples([samples[it] for it in chosen])
            logits = np.zeros((len(chosen), len(head.classes)), np.float32)
            for batch in self._batches(unique, "answering", maker, size=size):
                pixels = self._placed(self.processor.images(flatten_images(head, batch)))
                shape = (len(batch), head.images_per_sample)
                seen = self.model.head_tokens(pixels).unflatten(0, shape)
                here, positions = positions[: len(batch)], positions[len(batch) :]
                for rows, wanted in expand_positions(here, size):
                    questions = None if asked is None else [asked[chosen[it]] for it in wanted]
                    tokens = None if questions is None else self._tokens(questions)
                    found = self.model.head_logits(seen[rows].flatten(0, 1), tokens)
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
            progress=progress,
        )
        return np.stack(rows) if rows else np.zeros((0, len(head.classes)), np.float32)

    def answer(
        self,
        samples: Sequence[SampleImages],
        texts: Sequence[str] | None = None,
        *,
        on_error: OnError = "raise",
        progress: ProgressOption = False,
    ) -> list[list[Prediction]]:
        """Rank the head's classes by probability for each sample.

        For free-form answers use `caption` with the question as its `prompt`.

        Args:
            samples: As for `head_logits`.
            texts: As for `head_logits`.
            on_error: `raise` at an unreadable image, or `skip` its sample: it has no predictions.
            progress: Optional progress callback, or True for a line on stderr.

        Raises:
            ConfigError: As `head_logits`.
            DataError: As `head_logits`.
        """
        logits = self.head_logits(samples, texts, on_error=on_error, progress=progress)
        return predictions(logits, self.classes)

    def _check_image_head(self, *, prompted: bool) -> None:
        head = self.model.head
        if head is None or head.config.reads != "image":
            raise ConfigError(
                "there are no labels, and this model has no head that classifies images; give "
                'labels, such as classify(images, ["car", "frog"])'
            )
        if prompted:
            raise ConfigError("templates and by apply to labels, and none are given")

    @property
    def _device(self) -> torch.device:
        return self.model.log_scale.device

    def _per_image(
        self,
        images: Sequence[ImageInput],
        work: Callable[[Sequence[int], ProgressMaker], Sequence[T]],
        placeholder: Callable[[DataError], T],
        *,
        on_error: OnError,
        title: str,
        progress: ProgressOption,
    ) -> list[T]:
        """Compute one outcome per image; see `with_skips`."""
        return with_skips(
            len(images),
            work,
            check=lambda position: self.prepare_image(images[position]),
            placeholder=placeholder,
            on_error=on_error,
            batch_size=self.batch_size,
            title=title,
            progress=progress,
        )

    def _read_ahead(
        self, images: Sequence[ImageInput], title: str, progress: ProgressMaker
    ) -> Iterator[Float[Tensor, "B 3 S S"]]:
        """Yield batches of pixels; the next batch is read while the model computes the current."""
        starts = range(0, len(images), self.batch_size)
        batches = (images[start : start + self.batch_size] for start in starts)
        with progress(title, len(images)) as bar:
            for pixels in self.processor.image_batches(batches):
                yield self._placed(pixels)
                bar.advance(len(pixels))

    def _tokens(self, texts: Sequence[str]) -> Int[Tensor, "B T"]:
        return self.processor.texts(texts).to(self._device)

    def _placed(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 3 S S"]:
        return pixels.to(self._device, self.model.log_scale.dtype)

    def _batches(
        self, items: Sequence[T], title: str, progress: ProgressMaker, *, size: int | None = None
    ) -> Iterator[Sequence[T]]:
        size = size or self.batch_size
        with progress(title, len(items)) as bar:
            for start in range(0, len(items), size):
                batch = items[start : start + size]
                yield batch
                bar.advance(len(batch))

    def _stacked(self, rows: list[ndarray]) -> ndarray:
        return np.concatenate(rows) if rows else np.zeros((0, self.embed_dim), np.float32)


def _ends(groups: Sequence[Sequence[str]]) -> list[int]:
    """Return the boundaries between groups, for `numpy.split`."""
    return np.cumsum([len(group) for group in groups])[:-1].tolist()

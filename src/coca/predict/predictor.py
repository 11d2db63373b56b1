"""Base class of all predictors, on torch and ONNX Runtime: batches, skipped images, labels.

A subclass computes one batch, and raises an `UnsupportedError` for an operation that it lacks.

Dimensions: N images or texts, M texts scored against N images, B batch, E shared embedding, D its
dimensions before it is shortened, K labels, C classes of the image encoder, S side of an image
(pixels).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any, Literal, TypeVar, Unpack

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from numpy import ndarray

from coca.core.config.execution import CERTAIN
from coca.core.errors import ConfigError, DataError
from coca.core.progress import progress_bar
from coca.model.generation.generation_config import (
    GeneratedSequence,
    GenerationConfig,
    GenerationOptions,
)
from coca.predict.certainty import PEOPLE, CaptionJudge
from coca.predict.image_reading import BEFORE_WORD, ImageReading, read_words
from coca.predict.inputs import (
    Caption,
    OnError,
    Prediction,
    SampleImages,
    SeenImages,
    as_images,
    as_labels,
    as_texts,
    caption_of,
    expand_positions,
    predictions,
    prompts_for,
    skipped_caption,
    unique_samples,
    with_skips,
)
from coca.predict.prompts import PROMPTS, Templates, class_means, log_mean_likelihoods, sentences_of
from coca.predict.short_vectors import shortened
from coca.processing.class_words import ClassNoun, SeenNouns
from coca.processing.description import Description
from coca.processing.image_file import ImageInput
from coca.processing.preprocess import ImageSettings

T = TypeVar("T")


class Predictor(ABC):
    """A loaded model for inference. It batches inputs, and keeps no state between calls."""

    dimensions: int | None = None
    """Dimensions kept of each embedding; None: all. Set by `coca.predict.short_vectors.shorten`."""
    has_decoder = True
    """Whether the model generates and scores captions."""
    reads_pixels = True
    """Whether it reads the pixels of `image_settings`, and not files by its own library."""
    fingerprint: str
    """Identifies model and processor; only vectors of equal ones are comparable."""
    batch_size: int
    """Images or texts per batch."""
    source: str
    """Name or folder that the model was loaded from."""
    image_settings: ImageSettings
    """Preprocessing of images."""

    def __init__(self, *, source: str, batch_size: int) -> None:
        """Set the attributes that do not depend on the runtime."""
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        self.source, self.batch_size = source, batch_size

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.source}, fingerprint {self.fingerprint}>"

    @property
    def model_fingerprint(self) -> str:
        """Fingerprint of the whole model; `fingerprint` may cover the embeddings only."""
        return self.fingerprint

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """Dimension of the embeddings."""

    @property
    @abstractmethod
    def logit_scale(self) -> float:
        """Factor from cosine similarity to logit: one over the learned temperature."""

    @property
    @abstractmethod
    def context_length(self) -> int:
        """Maximum number of tokens in a text, special tokens included."""

    @property
    @abstractmethod
    def max_text_tokens(self) -> int:
        """Maximum number of tokens in a text, without special tokens."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of the model's head; empty without a head."""
        return ()

    @property
    def class_vectors(self) -> Float32[ndarray, "K E"] | None:
        """Unit vectors of the classes that the image encoder adds to embeddings; None without."""
        return None

    @property
    def class_nouns(self) -> tuple[ClassNoun, ...]:
        """Nouns of the image encoder's classes, and words for people; empty without."""
        return ()

    @property
    def answers_questions(self) -> bool:
        """Whether the model has a head that reads a text."""
        return False

    @property
    def images_per_sample(self) -> int:
        """Images per sample of the model's head; 1 without a head."""
        return 1

    @abstractmethod
    def prepare_image(self, image: ImageInput) -> UInt8[ndarray, "3 S S"]:
        """Decode and resize one image for `embed_prepared`; thread-safe.

        Raises:
            DataError: The image cannot be read.
        """

    @abstractmethod
    def leading_ids(self, text: str, count: int) -> list[int]:
        """Encode the first `count` tokens of a text of any length, without special tokens."""

    @abstractmethod
    def embed_clips(self, clips: Sequence[Sequence[ImageInput]]) -> Float32[ndarray, "N E"]:
        """Compute one unit-norm embedding per clip, from the tokens of all its images at once.

        The mean over the embeddings of the images is `coca.predict.video.embed_clips`.
        """

    @abstractmethod
    def caption_clips(
        self,
        clips: Sequence[Sequence[ImageInput]],
        *,
        prompt: str = "",
        decoding: GenerationConfig | None = None,
        **options: Unpack[GenerationOptions],
    ) -> list[Caption]:
        """Generate a caption for each clip: the decoder reads the pooled tokens of all its images.

        A clip is its images in order. For the other arguments and the errors see `caption`.
        """

    @abstractmethod
    def head_logits(
        self,
        samples: Sequence[SampleImages],
        texts: Sequence[str] | None = None,
        *,
        on_error: OnError = "raise",
    ) -> Float32[ndarray, "N K"]:
        """Compute the logits of the head's classes; repeated samples are encoded once.

        Args:
            samples: The image of each sample, or its images in order for a head that reads several.
            texts: The question or statement of each sample, for a head that reads text.
            on_error: `raise` at an unreadable image, or `skip` its sample: its row is NaN.

        Raises:
            ConfigError: The model has no head, or `texts` do not fit the head.
            DataError: An image cannot be read, or a sample has the wrong number of images.
        """

    def embed_images(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: OnError = "raise",
    ) -> Float32[ndarray, "N E"]:
        """Compute one unit-norm embedding per image; a single image is a list of one.

        Args:
            images: One or many.
            on_error: `raise` at an unreadable image, or `skip` it: its row is NaN.

        Raises:
            DataError: An image cannot be read; the message names it.
        """

        def work(chosen: Sequence[ImageInput], numbers: Sequence[int]) -> list[ndarray]:
            batches = self._read_ahead(chosen, "embedding images")
            encoded = (self._short(self._encode_images(pixels)) for pixels in batches)
            return [row for batch in encoded for row in batch]

        return self._stacked(
            self._per_image(
                as_images(images),
                work,
                lambda error: np.full(self.embed_dim, np.nan, np.float32),
                on_error=on_error,
                title="embedding images",
            )
        )

    def embed_prepared(self, images: Sequence[UInt8[ndarray, "3 S S"]]) -> Float32[ndarray, "N E"]:
        """Compute one unit-norm embedding per output of `prepare_image`, all in one batch."""
        return self._short(self._encode_images(self._from_squares(np.stack(list(images)))))

    def describe(
        self,
        images: Sequence[UInt8[ndarray, "3 S S"]],
        *,
        captions: bool = True,
        certainty: float = CERTAIN,
    ) -> list[Description]:
        """Compute embedding, nouns and caption of each output of `prepare_image`, encoding it once.

        Equal to `embed_prepared`, and to `caption` with its defaults, in batches of `batch_size`.

        Args:
            images: Outputs of `prepare_image`.
            captions: Whether to generate captions.
            certainty: Least certainty of a caption; below it, see `Caption.certain`.

        Raises:
            UnsupportedError: The model has no decoder.
        """
        described = list[Description]()
        for start in range(0, len(images), self.batch_size):
            squares = np.stack(images[start : start + self.batch_size])
            pixels, texts = self._from_squares(squares), [""] * len(squares)
            if captions:
                vectors, seen = self._encode_images_and_tokens(pixels)
                begun = [self._encode_prompt("")] * len(squares)
                written = self._write(seen, begun, GenerationConfig(), None)
                texts, likely = [best.certain(certainty) for best in written], seen.probabilities
            else:
                vectors, likely = self._encode_and_classify(pixels)
            nouns = [{}] * len(squares) if likely is None else self._seen_nouns.of(likely)
            rows = zip(self._short(vectors), nouns, texts, strict=True)
            described += [Description(*row) for row in rows]
        return described

    def embed_texts(self, texts: str | Iterable[str]) -> Float32[ndarray, "N E"]:
        """Compute one unit-norm embedding per text; a single text is a list of one."""
        batches = self._batches(as_texts(texts), "embedding texts")
        encoded = (self._short(self._encode_texts(self._tokens(batch))) for batch in batches)
        return self._stacked([row for batch in encoded for row in batch])

    def caption(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        prompt: str | Iterable[str] = "",
        decoding: GenerationConfig | None = None,
        on_error: OnError = "raise",
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
            **options: Fields of `GenerationConfig`, which take precedence over `decoding`.

        Returns:
            The best caption of each image. `num_return_sequences` above 1 fills its `others`.

        Raises:
            DataError: An image cannot be read.
            ConfigError: Options conflict, a prompt fills the context, or images lack prompts.
            UnsupportedError: The model has no decoder.
        """
        decoding = GenerationConfig.of(decoding, **options)
        image_list = as_images(images)
        prompts = [*map(self._encode_prompt, prompts_for(prompt, len(image_list)))]

        def work(chosen: Sequence[ImageInput], numbers: Sequence[int]) -> list[Caption]:
            unique, positions = unique_samples(chosen)
            captions: dict[int, Caption] = {}
            for pixels in self._read_ahead(unique, "captioning"):
                seen = self._image_tokens(pixels)
                here, positions = positions[: len(pixels)], positions[len(pixels) :]
                for rows, wanted in expand_positions(here, self.batch_size):
                    begun = [prompts[numbers[position]] for position in wanted]
                    drawn = pixels[rows] if decoding.sampled else None
                    written = self._write(seen[rows], begun, decoding, drawn)
                    captions |= zip(wanted, written, strict=True)
            return [captions[position] for position in range(len(chosen))]

        return self._per_image(
            image_list,
            work,
            skipped_caption,
            on_error=on_error,
            title="captioning",
        )

    def read_image(
        self, image: ImageInput, words: Sequence[str], *, captioned: bool = False
    ) -> ImageReading:
        """Score words and, if `captioned`, generate a caption; raises the errors of `caption`."""
        seen = self._image_tokens(self._from_squares(self.prepare_image(image)[None]))
        begun = self._encode_prompt("")
        written = self._write(seen, [begun], GenerationConfig(), None) if captioned else []
        caption = "".join(best.text for best in written)
        tokens = self._tokens([BEFORE_WORD, *(f"{BEFORE_WORD} {word}" for word in words)])
        both = seen[[0, 0]].tokens
        both[1] = 0
        scores = self._score_tokens(both, tokens, end=False)
        return ImageReading(caption, read_words(words, scores, self._word_maps(seen, words)))

    def score(
        self,
        images: ImageInput | Iterable[ImageInput],
        texts: str | Iterable[str],
        *,
        by_length: bool = False,
        only: Bool[ndarray, "N M"] | None = None,
        on_error: OnError = "raise",
    ) -> Float32[ndarray, "N M"]:
        """Compute the log-likelihood log p(text | image) of all pairs, in nats.

        Each image is encoded once. The sum does not compare texts of different lengths fairly.
        It does compare images for the same text. Texts beyond the context length are truncated.

        Args:
            images: One or many.
            texts: One or many.
            by_length: Return the mean over the tokens and the end token instead of the sum.
            only: Mask of the pairs to score; other pairs get minus infinity. Default: all pairs.
            on_error: `raise` at an unreadable image, or `skip` it: its row is NaN.

        Raises:
            DataError: An image cannot be read.
            ConfigError: `only` is not N x M.
        """
        image_list, tokens = as_images(images), self._tokens(as_texts(texts))
        shape = (len(image_list), len(tokens))
        if only is not None and only.shape != shape:
            raise ConfigError(f"only must have the shape of the scores, {shape}, got {only.shape}")

        def work(chosen: Sequence[ImageInput], numbers: Sequence[int]) -> list[ndarray]:
            rows: list[ndarray] = []
            for pixels in self._read_ahead(chosen, "scoring captions"):
                here = list(numbers[len(rows) : len(rows) + len(pixels)])
                pairs = None if only is None else only[here]
                rows += list(self._score_tokens(self._image_tokens(pixels).tokens, tokens, pairs))
            return rows

        missing = np.full(len(tokens), np.nan, np.float32)
        rows = self._per_image(
            image_list,
            work,
            lambda error: missing,
            on_error=on_error,
            title="scoring captions",
        )
        scores = np.stack(rows) if rows else np.zeros((0, len(tokens)), np.float32)
        return scores / self._scored_lengths(tokens).astype(np.float32) if by_length else scores

    def class_embeddings(
        self,
        labels: str | Iterable[str],
        *,
        templates: Templates = PROMPTS["plain"],
    ) -> Float32[ndarray, "K E"]:
        """Compute one unit-norm class embedding per label: the mean over its prompts (as in CLIP).

        Raises:
            ConfigError: No label, a repeated label, no prompt for a label, no `{}` in a template.
        """
        groups = sentences_of(as_texts(labels), templates)
        vectors = self.embed_texts([text for group in groups for text in group])
        return class_means(vectors, groups)

    def class_log_likelihoods(
        self,
        images: ImageInput | Iterable[ImageInput],
        labels: str | Iterable[str],
        *,
        templates: Templates = PROMPTS["plain"],
        only: Bool[ndarray, "N K"] | None = None,
        on_error: OnError = "raise",
    ) -> Float32[ndarray, "N K"]:
        """Compute the log-likelihood of each label's prompts, in nats.

        Probabilities, not their logarithms, are averaged over the templates. For arguments and
        errors see `score`, and `class_embeddings` for labels and templates.
        """
        groups = sentences_of(as_texts(labels), templates)
        pairs = None if only is None else only.repeat([*map(len, groups)], axis=1)
        sentences = [text for group in groups for text in group]
        each = self.score(images, sentences, only=pairs, on_error=on_error)
        return log_mean_likelihoods(each, groups)

    def classify(
        self,
        images: ImageInput | Iterable[ImageInput],
        labels: Iterable[str] | None = None,
        *,
        templates: Templates | None = None,
        by: Literal["similarity", "likelihood"] = "similarity",
        on_error: OnError = "raise",
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

        Raises:
            DataError: An image cannot be read.
            ConfigError: As `class_embeddings`, `by` is neither of the two, or there are no labels
                and the model has no head that classifies images.
        """
        if labels is None:
            if not self.classes or self.answers_questions:
                raise ConfigError(
                    "there are no labels, and this model has no head that classifies images; give "
                    'labels, such as classify(images, ["car", "frog"])'
                )
            if templates is not None or by != "similarity":
                raise ConfigError("templates and by apply to labels, and none are given")
            return self.answer(as_images(images), on_error=on_error)
        labels, templates = as_labels(labels), PROMPTS["plain"] if templates is None else templates
        if by == "similarity":
            classes = self.class_embeddings(labels, templates=templates)
            vectors = self.embed_images(images, on_error=on_error)
            logits = self.logit_scale * vectors @ classes.T
        elif by == "likelihood":
            logits = self.class_log_likelihoods(
                images, labels, templates=templates, on_error=on_error
            )
        else:
            raise ConfigError(f"by is {by!r}; choose one of similarity, likelihood")
        return predictions(logits, labels)

    def answer(
        self,
        samples: Sequence[SampleImages],
        texts: Sequence[str] | None = None,
        *,
        on_error: OnError = "raise",
    ) -> list[list[Prediction]]:
        """Rank the head's classes by probability for each sample.

        For free-form answers use `caption` with the question as its `prompt`. For arguments and
        errors see `head_logits`; a skipped sample has no predictions.
        """
        logits = self.head_logits(samples, texts, on_error=on_error)
        return predictions(logits, self.classes)

    # One batch, by the subclass. Pixels, image tokens and token ids are its arrays or tensors.

    @abstractmethod
    def _read_ahead(self, images: Sequence[ImageInput], title: str) -> Iterator[Any]:
        """Yield batches of pixels; the next batch is read while the model computes the current."""

    @abstractmethod
    def _from_squares(self, squares: UInt8[ndarray, "B 3 S S"]) -> Any:
        """Convert outputs of `prepare_image` to pixels."""

    @abstractmethod
    def _encode_images(self, pixels: Any) -> Float32[ndarray, "B D"]:
        """Compute embeddings in all D dimensions, as the next methods."""

    def _encode_and_classify(
        self, pixels: Any
    ) -> tuple[Float32[ndarray, "B D"], Float32[ndarray, "B C"] | None]:
        """Compute `_encode_images`, and the probabilities of the encoder's own classes if any."""
        return self._encode_images(pixels), None

    @abstractmethod
    def _image_tokens(self, pixels: Any) -> SeenImages: ...

    @abstractmethod
    def _encode_images_and_tokens(self, pixels: Any) -> tuple[Float32[ndarray, "B D"], SeenImages]:
        """Compute `_encode_images` and `_image_tokens`, in one pass where the model can."""

    @abstractmethod
    def _tokens(self, texts: Sequence[str]) -> Any: ...

    @abstractmethod
    def _encode_texts(self, tokens: Any) -> Float32[ndarray, "B D"]: ...

    @abstractmethod
    def _encode_prompt(self, text: str) -> list[int]: ...

    @abstractmethod
    def _decode(self, ids: Sequence[int]) -> str: ...

    @abstractmethod
    def _generate(
        self, seen: Any, prompts: Sequence[list[int]], decoding: GenerationConfig, pixels: Any
    ) -> list[list[GeneratedSequence]]: ...

    @abstractmethod
    def _score_tokens(
        self, image_tokens: Any, tokens: Any, only: Any = None, *, end: bool = True
    ) -> Float32[ndarray, "B M"]: ...

    def _word_maps(self, seen: Any, words: Sequence[str]) -> Float32[ndarray, "M h w"] | None:
        return None

    @abstractmethod
    def _scored_lengths(self, tokens: Any) -> ndarray:
        """Count the scored tokens of each text: its text tokens and [EOS]."""

    # Shared by the methods above.

    def _write(
        self,
        seen: SeenImages,
        prompts: Sequence[list[int]],
        decoding: GenerationConfig,
        pixels: Any,
    ) -> list[Caption]:
        """Generate captions, and judge those without a prompt."""
        written = self._generate(seen, prompts, decoding, pixels)
        captions = [
            caption_of(each, prompt, self._decode)
            for each, prompt in zip(written, prompts, strict=True)
        ]
        if seen.probabilities is None or seen.embeddings is None or self._judge is None:
            return captions
        rows = [row for row, prompt in enumerate(prompts) if len(prompt) == 1]  # only [BOS]
        listed = [(row, one) for row in rows for one in (captions[row], *captions[row].others)]
        if not listed:
            return captions
        of, each = [row for row, _ in listed], [one for _, one in listed]
        texts = self._encode_texts(self._tokens([one.text for one in each]))
        judged = iter(self._judge.judged(each, seen.probabilities[of], seen.embeddings[of], texts))
        for row in rows:
            best, *others = islice(judged, 1 + len(captions[row].others))
            captions[row] = replace(best, others=tuple(others))
        return captions

    @cached_property
    def _judge(self) -> CaptionJudge | None:
        if not self.class_nouns:
            return None
        people = self._encode_texts(self._tokens([PEOPLE]))[0]
        return CaptionJudge(self.class_nouns, people)

    @cached_property
    def _seen_nouns(self) -> SeenNouns:
        return SeenNouns(self.class_nouns)

    def _per_image(
        self,
        images: Sequence[ImageInput],
        work: Callable[[Sequence[ImageInput], Sequence[int]], Sequence[T]],
        placeholder: Callable[[DataError], T],
        *,
        on_error: OnError,
        title: str,
    ) -> list[T]:
        """Compute one outcome per image, from images with their positions; see `with_skips`."""
        return with_skips(
            len(images),
            lambda chosen: work([images[it] for it in chosen], chosen),
            check=lambda position: self.prepare_image(images[position]),
            placeholder=placeholder,
            on_error=on_error,
            batch_size=self.batch_size,
            title=title,
        )

    def _batches(
        self, items: Sequence[T], title: str, *, size: int | None = None
    ) -> Iterator[Sequence[T]]:
        size = size or self.batch_size
        with progress_bar(title, len(items)) as bar:
            for start in range(0, len(items), size):
                batch = items[start : start + size]
                yield batch
                bar.advance(len(batch))

    def _short(self, vectors: Float32[ndarray, "B D"]) -> Float32[ndarray, "B E"]:
        return vectors if self.dimensions is None else shortened(vectors, self.dimensions)

    def _stacked(self, rows: Sequence[ndarray]) -> Float32[ndarray, "N E"]:
        return np.stack(rows) if rows else np.zeros((0, self.embed_dim), np.float32)

"""A loaded model for people: images and words in, vectors, captions and labels out.

    predictor = coca.load("nano")
    predictor.embed_images(["cat.jpg"]) @ predictor.embed_texts(["a cat", "a dog"]).T

Dimensions: N images or texts, M texts beside N images, E shared embedding, K labels.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeVar, Unpack

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from coca.core.errors import ConfigError
from coca.core.progress import ProgressMaker, silent
from coca.inference.captioning import Caption, captions_of, prompts_for
from coca.inference.head_inference import (
    Prediction,
    Shown,
    asked_of,
    head_of,
    pictures_of,
    predictions,
)
from coca.inference.inputs import Picture, as_pictures, as_texts
from coca.inference.prompts import PROMPTS, Templates, sentences_of
from coca.inference.repeats import different, shared_out
from coca.model.captioner import Captioner
from coca.model.generation.config import GenerationConfig, GenerationOptions
from coca.model.generation.generate import generate
from coca.model.generation.scoring import score_captions, scored_lengths
from coca.model.layers.prepacked_linear import prepack_weights
from coca.processing.processor import Processor

T = TypeVar("T")


class Predictor:
    """A model with its processor, ready to use. Batches inside; keeps no state between calls."""

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
        """Joins parts that are already loaded; `load` does it from a folder.

        Args:
            model: On its device and in its precision.
            processor: The one that the model was trained with.
            fingerprint: Names model and processor together; vectors of different fingerprints
                must never be compared.
            source: Where it was loaded from, for people.
            batch_size: Images or texts at a time.
            prepack: Prepack the weights for a CPU, as `load` does; not if the model will train.
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

    @property
    def embed_dim(self) -> int:
        """Size of the vectors."""
        return self.model.config.embed_dim

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines by: one over its learned temperature."""
        return float(self.model.logit_scale.detach())

    @torch.inference_mode()
    def embed_images(
        self, images: Picture | Iterable[Picture], *, progress: ProgressMaker = silent
    ) -> Float[ndarray, "N E"]:
        """Gives a unit vector for each image; a single image is a list of one.

        Raises:
            DataError: An image cannot be read; the message names it.
        """
        rows = [
            self.model.encode_image(pixels).float().cpu().numpy()
            for pixels in self._read_ahead(as_pictures(images), "embedding images", progress)
        ]
        return self._stacked(rows)

    def prepare_image(self, image: Picture) -> UInt8[torch.Tensor, "3 S S"]:
        """Reads one image as `embed_prepared` takes it; threads may do so while the model works.

        Raises:
            DataError: It cannot be read.
        """
        transform = self.processor.image
        return transform.square(transform.read(image))

    @torch.inference_mode()
    def embed_prepared(
        self, images: Sequence[UInt8[torch.Tensor, "3 S S"]]
    ) -> Float[ndarray, "N E"]:
        """Gives a unit vector for each image that `prepare_image` gave, all in one batch."""
        pixels = torch.stack(list(images)).to(self._device, non_blocking=True)
        ready = self.processor.image.normalize(pixels).to(self.model.log_scale.dtype)
        return self.model.encode_image(ready).float().cpu().numpy()

    @torch.inference_mode()
    def embed_texts(
        self, texts: str | Iterable[str], *, progress: ProgressMaker = silent
    ) -> Float[ndarray, "N E"]:
        """Gives a unit vector for each text; a single text is a list of one."""
        rows = [
            self.model.encode_text(self._tokens(batch)).float().cpu().numpy()
            for batch in self._batches(as_texts(texts), "embedding texts", progress)
        ]
        return self._stacked(rows)

    @torch.inference_mode()
    def caption(
        self,
        images: Picture | Iterable[Picture],
        *,
        prompt: str | Iterable[str] = "",
        progress: ProgressMaker = silent,
        **options: Unpack[GenerationOptions],
    ) -> list[Caption]:
        """Describes each image, by beam search unless told otherwise.

            predictor.caption("cat.jpg")[0].text
            predictor.caption(files, num_beams=1)                           greedy, the fastest
            predictor.caption(files, num_return_sequences=3)[0].others      the next best two
            predictor.caption(files, temperature=0.8, seed=1)               sampled

        Args:
            images: One or many.
            prompt: Words that each caption begins with, or a text for each image.
            progress: Shows how far it is.
            **options: The fields of `coca.model.generation.config.GenerationConfig`.

        Returns:
            The best caption of each image; `num_return_sequences` above 1 puts more into its
            `others`.

        Raises:
            DataError: An image cannot be read.
            ConfigError: Options contradict each other, a prompt fills the context, or the number of
                prompts is not that of the images.
        """
        decoding, tokenizer = GenerationConfig.of(**options), self.processor.tokenizer
        pictures = as_pictures(images)
        prompts = [*map(tokenizer.encode_prompt, prompts_for(prompt, len(pictures)))]
        shown, places = different(pictures)
        found: dict[int, Caption] = {}
        for pixels in self._read_ahead(shown, "captioning", progress):
            tokens = self.model.image_tokens(pixels)
            here, places = places[: len(pixels)], places[len(pixels) :]
            for rows, wanted in shared_out(here, self.batch_size):
                begun = [prompts[place] for place in wanted]
                written = generate(self.model, tokens[rows], prompts=begun, decoding=decoding)
                for place, one in zip(wanted, written, strict=True):
                    found[place] = captions_of(one, tokenizer, prompt=prompts[place])
        return [found[place] for place in range(len(pictures))]

    @torch.inference_mode()
    def score(
        self,
        images: Picture | Iterable[Picture],
        texts: str | Iterable[str],
        *,
        by_length: bool = False,
        only: Bool[ndarray, "N M"] | None = None,
        progress: ProgressMaker = silent,
    ) -> Float[ndarray, "N M"]:
        """Gives log p(text | image) for all pairs: how likely the model is to say this of that.

        Each image is encoded once. Texts of different lengths are not fairly compared by the sum;
        for the same text, images are. A text too long for the model is cut.

        Args:
            images: One or many.
            texts: One or many.
            by_length: Give the mean over a text's tokens and its end in place of their sum.
            only: The pairs to score; the others get minus infinity. Default: all.
            progress: Shows how far it is.

        Raises:
            DataError: An image cannot be read.
            ConfigError: `only` has another shape.
        """
        pictures, tokens = as_pictures(images), self._tokens(as_texts(texts))
        shape = (len(pictures), len(tokens))
        if only is not None and only.shape != shape:
            raise ConfigError(f"only has the shape {only.shape}; right is {shape}, as the scores")
        rows, done = [], 0
        for pixels in self._read_ahead(pictures, "scoring captions", progress):
            pairs = None if only is None else torch.from_numpy(only[done : done + len(pixels)])
            seen = self.model.image_tokens(pixels)
            rows.append(score_captions(self.model, seen, tokens, only=pairs))
            done += len(pixels)
        scores = torch.cat(rows) if rows else torch.zeros(0, len(tokens))
        if by_length:
            scores = scores / scored_lengths(self.model, tokens)
        return scores.cpu().numpy()

    def class_embeddings(
        self,
        labels: str | Iterable[str],
        *,
        templates: Templates = PROMPTS["plain"],
        progress: ProgressMaker = silent,
    ) -> Float[ndarray, "K E"]:
        """Gives one unit vector a label: the mean over its prompts, as CLIP and CoCa do.

        Raises:
            ConfigError: No label, the same label twice, one without sentences, or a template
                without `{}`.
        """
        groups = sentences_of(as_texts(labels), templates)
        vectors = self.embed_texts([text for group in groups for text in group], progress=progress)
        means = np.stack([part.mean(axis=0) for part in np.split(vectors, _ends(groups))])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def class_log_likelihoods(
        self,
        images: Picture | Iterable[Picture],
        labels: str | Iterable[str],
        *,
        templates: Templates = PROMPTS["plain"],
        only: Bool[ndarray, "N K"] | None = None,
        progress: ProgressMaker = silent,
    ) -> Float[ndarray, "N K"]:
        """Gives the log-probability of each label's sentence, averaged over the templates, in nats.

        Args:
            images: One or many.
            labels: Names of the classes.
            templates: Sentences with `{}` for the label, or each label's own.
            only: The pairs to score; the others get minus infinity. Default: all.
            progress: Shows how far it is.

        Raises:
            DataError: An image cannot be read.
            ConfigError: As `class_embeddings`.
        """
        groups = sentences_of(as_texts(labels), templates)
        counts = [len(group) for group in groups]
        pairs = None if only is None else only.repeat(counts, axis=1)
        sentences = [text for group in groups for text in group]
        each = self.score(images, sentences, only=pairs, progress=progress)
        parts = np.split(each, _ends(groups), axis=1)
        totals = np.stack([np.logaddexp.reduce(part, axis=1) for part in parts], axis=1)
        return totals - np.log(np.array(counts, np.float32))

    def classify(
        self,
        images: Picture | Iterable[Picture],
        labels: str | Iterable[str],
        *,
        templates: Templates = PROMPTS["plain"],
        by: Literal["similarity", "likelihood"] = "similarity",
        progress: ProgressMaker = silent,
    ) -> list[list[Prediction]]:
        """Sorts labels by how well they fit each image, without any training on them.

        Args:
            images: One or many.
            labels: Names to choose from.
            templates: Sentences with `{}` for the label, or each label's own; a label's vector is
                the mean over them.
            by: `similarity` compares embeddings; `likelihood` asks how probable it is that the
                model says the sentences of the image, on average over the templates. The second
                is slower and favours short and frequent names.
            progress: Shows how far it is.

        Raises:
            DataError: An image cannot be read.
            ConfigError: As `class_embeddings`, or `by` is neither of the two.
        """
        labels = as_texts(labels)
        if by == "similarity":
            classes = self.class_embeddings(labels, templates=templates)
            logits = self.logit_scale * self.embed_images(images, progress=progress) @ classes.T
        elif by == "likelihood":
            logits = self.class_log_likelihoods(
                images, labels, templates=templates, progress=progress
            )
        else:
            raise ConfigError(f"by is {by!r}; choose one of similarity, likelihood")
        return predictions(logits, labels)

    @property
    def classes(self) -> tuple[str, ...]:
        """What the model's head chooses from; empty if it has none."""
        return () if self.model.head is None else self.model.head.config.classes

    @torch.inference_mode()
    def head_logits(
        self,
        samples: Sequence[Shown],
        texts: Sequence[str] | None = None,
        *,
        progress: ProgressMaker = silent,
    ) -> Float[ndarray, "N K"]:
        """Gives the logits of the head's classes; what is shown more than once is encoded once.

        Args:
            samples: For each, its image, or as many as the head reads, in order.
            texts: What is asked of each, for a head that reads words.
            progress: Shows how far it is.

        Raises:
            ConfigError: There is no head, or it reads something else.
            DataError: An image cannot be read, or a sample has too few or too many.
        """
        head = head_of(self.model)
        asked, (shown, places) = asked_of(head, texts, len(samples)), different(samples)
        logits = np.zeros((len(samples), len(head.classes)), np.float32)
        size = max(1, self.batch_size // head.pictures)
        for batch in self._batches(shown, "answering", progress, size=size):
            pixels = self._placed(self.processor.images(pictures_of(head, batch)))
            seen = self.model.head_tokens(pixels).unflatten(0, (len(batch), head.pictures))
            here, places = places[: len(batch)], places[len(batch) :]
            for rows, wanted in shared_out(here, size):
                tokens = None if asked is None else self._tokens([asked[it] for it in wanted])
                found = self.model.head_logits(seen[rows].flatten(0, 1), tokens)
                logits[wanted] = found.float().cpu().numpy()
        return logits

    def answer(
        self,
        samples: Sequence[Shown],
        texts: Sequence[str] | None = None,
        *,
        progress: ProgressMaker = silent,
    ) -> list[list[Prediction]]:
        """Sorts the head's classes by how sure it is of them: names, answers, verdicts.

        For answers in free words take `caption` with the question as its `prompt`.

        Args:
            samples: As for `head_logits`.
            texts: As for `head_logits`.
            progress: Shows how far it is.

        Raises:
            ConfigError: As `head_logits`.
            DataError: As `head_logits`.
        """
        return predictions(self.head_logits(samples, texts, progress=progress), self.classes)

    @property
    def _device(self) -> torch.device:
        return self.model.log_scale.device

    def _read_ahead(
        self, images: Sequence[Picture], title: str, progress: ProgressMaker
    ) -> Iterator[Float[Tensor, "B 3 S S"]]:
        """Batches for the model, each read while the model works on the one before."""
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
    """Where one group ends and the next begins, for `numpy.split`."""
    return np.cumsum([len(group) for group in groups])[:-1].tolist()

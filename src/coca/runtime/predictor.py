"""Predictor without torch: embeddings, captions and scores by ONNX Runtime.

    predictor = coca.runtime.load("exported")
    predictor.embed_images(["cat.jpg"]) @ predictor.embed_texts(["a cat", "a dog"]).T

The methods have the names and results of `coca.inference.predictor.Predictor`.

Dimensions: N images or texts, M texts scored against N images, B batch, S side of an image
(pixels), E shared embedding, Q image tokens, C their width.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from coca.core.errors import ConfigError, DataError, ModelError
from coca.core.extras import require
from coca.core.files.atomic import read_model_json
from coca.core.progress import ProgressMaker, ProgressOption, as_maker
from coca.runtime.beam_search import Generated, beam_search
from coca.runtime.decoder import Decoder, DecoderState
from coca.runtime.files import (
    FLOAT_VISION,
    PREPROCESS_FILE,
    TOKENIZER_FILE,
    Manifest,
    read_manifest,
)
from coca.runtime.inputs import (
    Caption,
    ImageInput,
    as_images,
    as_texts,
    prompts_for,
    skipped_caption,
)
from coca.runtime.method_names import missing_method
from coca.runtime.preprocess import (
    ImageSettings,
    TextSettings,
    TextTokens,
    settings_from,
    square,
)
from coca.runtime.scoring import score_captions, scored_lengths
from coca.runtime.short_vectors import shorten
from coca.runtime.unreadable import OnError, with_skips

T = TypeVar("T")

DEFAULT_BEAMS = 4
VISION_BATCH = 4
"""Images of one run of the image encoder. More take memory for their activations and no less time:
16 images of `everyday` at once take 0.15 GB more."""


def load(
    path: str | Path,
    *,
    batch_size: int = 16,
    threads: int | None = None,
    dimensions: int | None = None,
) -> "Predictor":
    """Load an exported model; torch is not imported.

    Args:
        path: A folder that `coca export --format onnx` wrote.
        batch_size: Images or texts per batch, at least 1; larger batches take more memory.
        threads: Threads of ONNX Runtime; default: one per core.
        dimensions: Keep the first numbers of each embedding, and normalize them again. Default:
            all.

    Raises:
        ModelError: A file is missing or was changed.
        ConfigError: `batch_size` or `threads` is below 1, or `dimensions` is out of range.
        MissingExtraError: onnxruntime is not installed.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    where = folder / PREPROCESS_FILE
    image, text = settings_from(read_model_json(where), where)
    loaded = Predictor(folder, manifest, image, text, batch_size=batch_size, threads=threads)
    return loaded if dimensions is None else shorten(loaded, dimensions)


class Predictor:
    """An exported model for inference; a graph is loaded when it is first needed."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        image: ImageSettings,
        text: TextSettings,
        *,
        batch_size: int,
        threads: int | None,
    ) -> None:
        """Combine the files of an exported model; `load` does so from a folder."""
        for name, value in (("batch_size", batch_size), ("threads", threads)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        self.manifest, self.batch_size, self.source = manifest, batch_size, str(folder)
        self._folder, self.image_settings, self._text, self._threads = folder, image, text, threads
        self._tokens = TextTokens(folder / TOKENIZER_FILE, text)
        self._runtime = require("onnxruntime", extra="runtime")

    if not TYPE_CHECKING:  # type checkers would accept every name

        def __getattr__(self, name: str) -> NoReturn:
            raise missing_method(self, name)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the exported model, whose vectors are comparable."""
        return self.manifest.fingerprint

    @property
    def embed_dim(self) -> int:
        """Dimension of the embeddings."""
        return self.manifest.embed_dim

    @property
    def logit_scale(self) -> float:
        """Factor from cosine similarity to logit: one over the learned temperature."""
        return self.manifest.logit_scale

    @property
    def context_length(self) -> int:
        """Maximum number of tokens in a text, special tokens included."""
        return self._text.context_length

    @property
    def max_text_tokens(self) -> int:
        """Maximum number of tokens in a text, without special tokens."""
        return self._text.context_length - 1 - len(self._text.suffix)

    def leading_ids(self, text: str, count: int) -> list[int]:
        """Encode the first `count` tokens of a text of any length, without special tokens."""
        return self._tokens.leading_ids(text, count)

    def embed_images(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        on_error: OnError = "raise",
        progress: ProgressOption = False,
    ) -> Float32[np.ndarray, "N E"]:
        """Compute one unit-norm embedding per image; a single image is a list of one.

        Args:
            images: One or many.
            on_error: `raise` at an unreadable image, or `skip` it: its row is NaN.
            progress: Optional progress callback, or True for a line on stderr.

        Raises:
            DataError: An image cannot be read; the message names it.
        """
        image_list = as_images(images)

        def work(chosen: Sequence[int], maker: ProgressMaker) -> list[Any]:
            here = self._pixels([image_list[it] for it in chosen], "embedding images", maker)
            rows = (self._embed(pixels) for pixels in here)
            return [row for batch in rows for row in batch]

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

    def prepare_image(self, image: ImageInput) -> UInt8[np.ndarray, "3 S S"]:
        """Decode and resize one image for `embed_prepared`; thread-safe.

        Raises:
            DataError: The image cannot be read.
        """
        return square(image, self.image_settings)

    def embed_prepared(
        self, images: Sequence[UInt8[np.ndarray, "3 S S"]]
    ) -> Float32[np.ndarray, "N E"]:
        """Compute one unit-norm embedding per output of `prepare_image`, all in one batch."""
        return self._embed(np.stack(list(images)))

    def embed_texts(
        self, texts: str | Iterable[str], *, progress: ProgressOption = False
    ) -> Float32[np.ndarray, "N E"]:
        """Compute one unit-norm embedding per text; a single text is a list of one."""
        rows = []
        texts = as_texts(texts)
        with as_maker(progress)("embedding texts", len(texts)) as bar:
            for batch in self._batches(texts):
                ids = self._tokens.encode(batch)
                rows.append(self._text_graph.run(None, {"input_ids": ids})[0])
                bar.advance(len(batch))
        return self._stacked(rows)

    def caption(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        prompt: str | Iterable[str] = "",
        num_beams: int = DEFAULT_BEAMS,
        num_return_sequences: int = 1,
        max_new_tokens: int | None = None,
        length_penalty: float = 1.0,
        on_error: OnError = "raise",
        progress: ProgressOption = False,
    ) -> list[Caption]:
        """Generate a caption for each image by beam search; see `GenerationConfig`.

        Args:
            images: One or many.
            prompt: Text that each caption begins with, or one text per image; default: none.
            num_beams: Beams per image; 1 is greedy decoding, the fastest.
            num_return_sequences: Captions per image, at most `num_beams`; the next best are in
                `others`.
            max_new_tokens: Maximum number of tokens after the prompt, [EOS] included. Default: up
                to the model's context length.
            length_penalty: Exponent of the length that divides a caption's log-probability.
            on_error: `raise` at an unreadable image, or `skip` it: its caption is empty, and
                has the `error`.
            progress: Optional progress callback, or True for a line on stderr.

        Raises:
            DataError: An image cannot be read.
            ConfigError: A number is out of range, a prompt fills the context, or images lack
                prompts.
        """
        if not 1 <= num_return_sequences <= num_beams:
            raise ConfigError(
                f"num_return_sequences must be in [1, num_beams {num_beams}], got "
                f"{num_return_sequences}"
            )
        if max_new_tokens is not None and max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        image_list = as_images(images)
        prompts = [*map(self._tokens.encode_prompt, prompts_for(prompt, len(image_list)))]

        def work(chosen: Sequence[int], maker: ProgressMaker) -> list[Caption]:
            captions: list[Caption] = []
            for pixels in self._pixels([image_list[it] for it in chosen], "captioning", maker):
                begun = chosen[len(captions) : len(captions) + len(pixels)]
                here = [prompts[it] for it in begun]
                state = DecoderState(
                    self._decoder,
                    self._image_tokens(pixels),
                    here,
                    pad_id=self._text.pad_id,
                    max_position=self._text.positions - 1,
                )
                room = self._text.max_text_tokens + 1
                budgets = [min(max_new_tokens or room, room - len(ids)) for ids in here]
                found = beam_search(
                    state,
                    budgets,
                    self._text,
                    num_beams=num_beams,
                    # Captions of greedy decoding are not compared, and their rank is the score.
                    length_penalty=0.0 if num_beams == 1 else length_penalty,
                )
                for ids, best in zip(here, found, strict=True):
                    wanted = best[:num_return_sequences]
                    first, *others = (self._caption(one, ids) for one in wanted)
                    captions.append(replace(first, others=tuple(others)))
            return captions

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
        on_error: OnError = "raise",
        progress: ProgressOption = False,
    ) -> Float32[np.ndarray, "N M"]:
        """Compute the log-likelihood log p(text | image) of all pairs, in nats.

        Args:
            images: One or many.
            texts: One or many; texts beyond the context length are truncated.
            by_length: Return the mean over the tokens and the end token instead of the sum.
            on_error: `raise` at an unreadable image, or `skip` it: its row is NaN.
            progress: Optional progress callback, or True for a line on stderr.

        Raises:
            DataError: An image cannot be read.
        """
        image_list, tokens = as_images(images), self._tokens.encode(as_texts(texts))

        def work(chosen: Sequence[int], maker: ProgressMaker) -> list[Any]:
            here = self._pixels([image_list[it] for it in chosen], "scoring captions", maker)
            rows = (
                score_captions(
                    self._decoder,
                    self._image_tokens(pixels),
                    tokens,
                    self._text,
                    vocab_size=self._tokens.vocab_size,
                )
                for pixels in here
            )
            return [row for batch in rows for row in batch]

        missing = np.full(len(tokens), np.nan, np.float32)
        rows = self._per_image(
            image_list,
            work,
            lambda error: missing,
            on_error=on_error,
            title="scoring captions",
            progress=progress,
        )
        scores = np.stack(rows) if rows else np.zeros((0, len(tokens)), np.float32)
        if by_length:
            scores /= scored_lengths(tokens, self._text)
        return scores

    @cached_property
    def _vision_graph(self) -> Any:
        return self._session("vision")

    @cached_property
    def _tokens_graph(self) -> Any:
        """Graph that computes image tokens."""
        is_apart = f"{FLOAT_VISION}.onnx" in self.manifest.files
        return self._session(FLOAT_VISION) if is_apart else self._vision_graph

    @cached_property
    def _text_graph(self) -> Any:
        return self._session("text")

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self._session("cross"), self._session("decoder"), self.manifest)

    def _session(self, name: str) -> Any:
        options = self._runtime.SessionOptions()
        # The arena of a session keeps its largest activations: 84 MB of `everyday` with captions.
        # Without it the times are the same.
        options.enable_cpu_mem_arena = False
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        path = self._folder / f"{name}.onnx"
        try:
            return self._runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            # ONNX Runtime has no common base class of its errors.
            raise ModelError(f"{path} cannot be loaded: {error}") from error

    def _embed(self, pixels: UInt8[np.ndarray, "B 3 S S"]) -> Float32[np.ndarray, "B E"]:
        return _in_parts(self._vision_graph, "image_embeds", pixels)

    def _image_tokens(self, pixels: UInt8[np.ndarray, "B 3 S S"]) -> Float32[np.ndarray, "B Q C"]:
        return _in_parts(self._tokens_graph, "image_tokens", pixels)

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

    def _pixels(
        self, images: Sequence[ImageInput], title: str, progress: ProgressMaker
    ) -> Iterator[UInt8[np.ndarray, "B 3 S S"]]:
        """Yield batches of pixels; the next batch is read while the model computes the current."""
        # PIL images load their pixels lazily, and one may be in the list twice.
        opened = any(isinstance(image, Image.Image) for image in images)
        workers = 1 if opened else os.cpu_count()
        with progress(title, len(images)) as bar, ThreadPoolExecutor(workers) as readers:
            ahead: list[Future[UInt8[np.ndarray, "3 S S"]]] = []
            for batch in self._batches(images):
                current = ahead
                ahead = [readers.submit(square, image, self.image_settings) for image in batch]
                if current:
                    yield np.stack([one.result() for one in current])
                    bar.advance(len(current))
            if ahead:
                yield np.stack([one.result() for one in ahead])
                bar.advance(len(ahead))

    def _batches(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        for start in range(0, len(items), self.batch_size):
            yield items[start : start + self.batch_size]

    def _caption(self, written: Generated, prompt: Sequence[int]) -> Caption:
        return Caption(
            # Decoded together, since a word may span the boundary.
            self._tokens.decode([*prompt[1:], *written.token_ids]),
            self._tokens.decode(written.token_ids),
            sum(written.log_probabilities),
            written.token_ids,
            written.log_probabilities,
            rank_score=written.rank,
        )

    def _stacked(self, rows: list[Any]) -> Float32[np.ndarray, "N E"]:
        return np.concatenate(rows) if rows else np.zeros((0, self.embed_dim), np.float32)


def _in_parts(graph: Any, output: str, pixels: UInt8[np.ndarray, "B 3 S S"]) -> Any:
    """Run an image encoder on a few images at a time, and return one of its outputs."""
    starts = range(0, len(pixels), VISION_BATCH)
    parts = [graph.run([output], {"pixels": pixels[it : it + VISION_BATCH]})[0] for it in starts]
    return np.concatenate(parts)

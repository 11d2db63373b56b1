"""OnnxPredictor without torch: embeddings, captions and scores by ONNX Runtime.

    predictor = coca.load("exported")
    predictor.embed_images(["cat.jpg"]) @ predictor.embed_texts(["a cat", "a dog"]).T

Dimensions: M texts scored against B images of a batch, T tokens of a text, S side of an image
(pixels), E shared embedding, D its dimensions before it is shortened, Q image tokens, C their
width.
"""

import importlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn, Unpack

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from coca.core.errors import ConfigError, UnsupportedError
from coca.core.files.atomic import read_model_json
from coca.core.progress import progress_bar
from coca.model.generation.generation_config import (
    GeneratedSequence,
    GenerationConfig,
    GenerationOptions,
)
from coca.model.generation.random_streams import image_numbers
from coca.predict.class_vectors import read_class_vectors
from coca.predict.embedding_predictor import EmbeddingPredictor
from coca.predict.inputs import OnError, SampleImages, SeenImages, as_texts
from coca.predict.manifest import (
    FLOAT_VISION,
    PREPROCESS_FILE,
    TOKENIZER_FILE,
    TOWER_TOKENIZER_FILE,
    Manifest,
    folder_named,
    open_graph,
    read_manifest,
)
from coca.predict.onnx_beam_search import beam_search
from coca.predict.onnx_decoder import OnnxDecoder, OnnxDecoderState
from coca.predict.onnx_logits_processors import OnnxLogitsProcessors, padded_prompts
from coca.predict.onnx_sampling import sample
from coca.predict.onnx_scoring import score_captions, scored_lengths
from coca.predict.predictor import Predictor
from coca.processing.class_words import CLASS_WORDS_FILE, ClassNoun, load_nouns
from coca.processing.image_file import ImageInput, reading_threads
from coca.processing.preprocess import (
    ImageSettings,
    TextSettings,
    TextTokens,
    TowerText,
    TowerTokens,
    normalize,
    settings_from,
    square,
)
from coca.processing.tokenizer_file import whole

VISION_BATCH = 4
"""Images of one run of the image encoder. More take memory for their activations and no less time:
16 images of `everyday` at once take 0.15 GB more."""

_LIKELY = "class_probabilities"
"""Output of image encoders with classes of their own."""


def open_exported(
    name: str | Path, *, batch_size: int = 16, threads: int | None = None
) -> "ExportedTower | OnnxPredictor":
    """Open an exported model by its folder, or a shipped model by its name.

    `coca.load` runs a shipped model on torch if torch is installed; this function never does.

    Args:
        name: A folder of `coca export --format onnx`, or the name of a shipped model.
        batch_size: Images or texts per batch, at least 1.
        threads: Threads of ONNX Runtime within an operator, at least 1; default: its own choice.
    """
    folder = folder_named(name)
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    manifest, where = read_manifest(folder), folder / PREPROCESS_FILE
    image, text, tower = settings_from(read_model_json(where), where)
    kind = ExportedTower if text is None else OnnxPredictor
    return kind(folder, manifest, image, text, tower, batch_size=batch_size, threads=threads)


class Exported(Predictor):
    """The files of an exported model; a graph is loaded when it is first needed."""

    _tower_tokens: TowerTokens | None = None
    """Tokenizer for embeddings of texts, if another library's model computes them."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        image: ImageSettings,
        text: TextSettings | None,
        tower: TowerText | None = None,
        *,
        batch_size: int,
        threads: int | None,
    ) -> None:
        """Combine the files of an exported model; `open_exported` reads them from a folder."""
        super().__init__(source=str(folder), batch_size=batch_size)
        self.manifest, self.image_settings = manifest, image
        self.fingerprint = manifest.fingerprint
        self._folder, self._threads = folder, threads
        if text is not None:
            self._text, self._text_tokens = text, TextTokens(folder / TOKENIZER_FILE, text)
        if tower is not None:
            self._tower_tokens = TowerTokens(folder / TOWER_TOKENIZER_FILE, tower)
        self._runtime = importlib.import_module("onnxruntime")

    @property
    def embed_dim(self) -> int:
        return self.dimensions or self.manifest.embed_dim

    @property
    def logit_scale(self) -> float:
        return self.manifest.logit_scale

    @cached_property
    def class_vectors(self) -> Float32[np.ndarray, "K E"] | None:
        return read_class_vectors(self._folder)

    @cached_property
    def _vision_graph(self) -> Any:
        return self._session("vision")

    @cached_property
    def _text_graph(self) -> Any:
        return self._session("text")

    def _session(self, name: str) -> Any:
        path = self._folder / f"{name}.onnx"
        return open_graph(self._runtime, path, threads=self._threads)


class ExportedTower(EmbeddingPredictor, Exported):
    """An exported image-text model of another library, without a decoder."""

    library = "onnxruntime"

    @property
    def tokens(self) -> TowerTokens:
        """The tokenizer."""
        assert self._tower_tokens is not None, "set by the constructor"
        return self._tower_tokens

    @property
    def context_length(self) -> int:
        return self.tokens.settings.context_length

    @property
    def max_text_tokens(self) -> int:
        return self.tokens.max_text_tokens

    def leading_ids(self, text: str, count: int) -> list[int]:
        return self.tokens.leading_ids(text, count)

    def _image_features(self, pixels: UInt8[np.ndarray, "B 3 S S"]) -> Float32[np.ndarray, "B E"]:
        return _in_parts(self._vision_graph, ("image_embeds",), pixels)[0]

    def _text_features(self, texts: Sequence[str]) -> Float32[np.ndarray, "B E"]:
        ids, _ = self.tokens.encode(texts)
        return self._text_graph.run(None, {"input_ids": ids})[0]


class OnnxPredictor(Exported):
    """An exported model with a decoder, for inference."""

    @cached_property
    def class_nouns(self) -> tuple[ClassNoun, ...]:
        return load_nouns(self._folder / CLASS_WORDS_FILE)

    @property
    def context_length(self) -> int:
        tower = self._tower_tokens
        return self._text.context_length if tower is None else tower.settings.context_length

    @property
    def max_text_tokens(self) -> int:
        if self._tower_tokens is not None:
            return self._tower_tokens.max_text_tokens
        return self._text.context_length - 1 - len(self._text.suffix)

    def leading_ids(self, text: str, count: int) -> list[int]:
        return (self._tower_tokens or self._text_tokens).leading_ids(text, count)

    def embed_texts(self, texts: str | Iterable[str]) -> Float32[np.ndarray, "N E"]:
        if self._tower_tokens is None:
            return super().embed_texts(texts)
        batches = self._batches(as_texts(texts), "embedding texts")
        ids = (self._tower_tokens.encode([*map(whole, batch)])[0] for batch in batches)
        encoded = (self._short(self._encode_texts(batch)) for batch in ids)
        return self._stacked([row for batch in encoded for row in batch])

    def prepare_image(self, image: ImageInput) -> UInt8[np.ndarray, "3 S S"]:
        return square(image, self.image_settings)

    def embed_clips(self, clips: Sequence[Sequence[ImageInput]]) -> NoReturn:
        """Raise an error: the graphs pool the tokens of one image."""
        raise self._unsupported("pools the tokens of one image at a time")

    def caption_clips(
        self,
        clips: Sequence[Sequence[ImageInput]],
        *,
        prompt: str = "",
        decoding: GenerationConfig | None = None,
        **options: Unpack[GenerationOptions],
    ) -> NoReturn:
        """Raise an error: the graphs pool the tokens of one image."""
        raise self._unsupported("captions one image at a time, and no videos")

    def head_logits(
        self,
        samples: Sequence[SampleImages],
        texts: Sequence[str] | None = None,
        *,
        on_error: OnError = "raise",
    ) -> NoReturn:
        """Raise an error: a head is not exported."""
        raise self._unsupported("has no head that answers")

    @cached_property
    def _tokens_graph(self) -> Any:
        """Graph that computes image tokens."""
        is_apart = f"{FLOAT_VISION}.onnx" in self.manifest.files
        return self._session(FLOAT_VISION) if is_apart else self._vision_graph

    @cached_property
    def _decoder(self) -> OnnxDecoder:
        return OnnxDecoder(self._session("cross"), self._session("decoder"), self.manifest)

    def _encode_images(self, pixels: UInt8[np.ndarray, "B 3 S S"]) -> Float32[np.ndarray, "B D"]:
        return _in_parts(self._vision_graph, ("image_embeds",), pixels)[0]

    def _encode_and_classify(
        self, pixels: UInt8[np.ndarray, "B 3 S S"]
    ) -> tuple[Float32[np.ndarray, "B D"], Float32[np.ndarray, "B C"] | None]:
        if not self.class_nouns:
            return self._encode_images(pixels), None
        vectors, likely = _in_parts(self._vision_graph, ("image_embeds", _LIKELY), pixels)
        return vectors, likely

    def _image_tokens(self, pixels: UInt8[np.ndarray, "B 3 S S"]) -> SeenImages:
        return self._seen(self._tokens_graph, pixels)[1]

    def _encode_images_and_tokens(
        self, pixels: UInt8[np.ndarray, "B 3 S S"]
    ) -> tuple[Float32[np.ndarray, "B D"], SeenImages]:
        if self._tokens_graph is not self._vision_graph:
            # An int8 model: its captions need image tokens in float32.
            return self._encode_images(pixels), self._image_tokens(pixels)
        return self._seen(self._vision_graph, pixels)

    def _seen(
        self, graph: Any, pixels: UInt8[np.ndarray, "B 3 S S"]
    ) -> tuple[Float32[np.ndarray, "B D"], SeenImages]:
        likely = (_LIKELY,) if self.class_nouns else ()
        vectors, tokens, *rest = _in_parts(graph, ("image_embeds", "image_tokens", *likely), pixels)
        return vectors, SeenImages(tokens, next(iter(rest), None), vectors)

    def _tokens(self, texts: Sequence[str]) -> Int64[np.ndarray, "B T"]:
        return self._text_tokens.encode(texts)

    def _encode_texts(self, tokens: Int64[np.ndarray, "B T"]) -> Float32[np.ndarray, "B D"]:
        return self._text_graph.run(None, {"input_ids": tokens})[0]

    def _encode_prompt(self, text: str) -> list[int]:
        return self._text_tokens.encode_prompt(text)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._text_tokens.decode(ids)

    def _generate(
        self,
        seen: SeenImages,
        prompts: Sequence[list[int]],
        decoding: GenerationConfig,
        pixels: UInt8[np.ndarray, "B 3 S S"] | None,
    ) -> list[list[GeneratedSequence]]:
        if not prompts:
            return []
        text, room = self._text, self._text.max_text_tokens + 1
        state = OnnxDecoderState(
            self._decoder,
            seen.tokens,
            prompts,
            pad_id=text.pad_id,
            max_position=text.positions - 1,
        )
        constraint = self._text_tokens.word_constraint(decoding.words)
        guide = None
        if constraint is not None and seen.probabilities is not None and decoding.beams > 1:
            guide = constraint.guide(seen.probabilities, width=state.logits.shape[2])
        limits = [min(decoding.max_new_tokens or room, room - len(ids)) for ids in prompts]
        search = beam_search
        if decoding.beams == 1:
            numbers: Sequence[int] = range(len(prompts))
            if pixels is not None:
                numbers = image_numbers(normalize(pixels, self.image_settings))
            search = partial(sample, images=numbers)
        return search(
            state,
            padded_prompts(prompts),
            processors=OnnxLogitsProcessors(decoding, text, constraint, guide),
            decoding=decoding,
            token_budget=np.array(limits),
            eos_id=text.eos_id,
        )

    def _score_tokens(
        self,
        image_tokens: Float32[np.ndarray, "B Q C"],
        tokens: Int64[np.ndarray, "M T"],
        only: Bool[np.ndarray, "B M"] | None = None,
        *,
        end: bool = True,
    ) -> Float32[np.ndarray, "B M"]:
        size = self._text_tokens.vocab_size
        return score_captions(
            self._decoder, image_tokens, tokens, self._text, vocab_size=size, only=only, end=end
        )

    def _scored_lengths(self, tokens: Int64[np.ndarray, "M T"]) -> Int64[np.ndarray, " M"]:
        return scored_lengths(tokens, self._text)

    def _from_squares(self, squares: UInt8[np.ndarray, "B 3 S S"]) -> UInt8[np.ndarray, "B 3 S S"]:
        return squares

    def _read_ahead(
        self, images: Sequence[ImageInput], title: str
    ) -> Iterator[UInt8[np.ndarray, "B 3 S S"]]:
        """Yield batches of pixels; the next batch is read while the model computes the current."""
        with ThreadPoolExecutor(reading_threads(images)) as readers:
            ahead: list[Future[UInt8[np.ndarray, "3 S S"]]] = []
            with progress_bar(title, len(images)) as bar:
                for start in range(0, len(images) + self.batch_size, self.batch_size):
                    batch = images[start : start + self.batch_size]
                    current = ahead
                    ahead = [readers.submit(self.prepare_image, image) for image in batch]
                    if current:
                        yield np.stack([one.result() for one in current])
                        bar.advance(len(current))

    def _unsupported(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"an exported model {what}: load the model it was exported from by torch"
        )


def _in_parts(
    graph: Any, outputs: Sequence[str], pixels: UInt8[np.ndarray, "B 3 S S"]
) -> list[Any]:
    """Run an image encoder on a few images at a time, and return some of its outputs."""
    starts = range(0, len(pixels), VISION_BATCH)
    parts = [graph.run(outputs, {"pixels": pixels[it : it + VISION_BATCH]}) for it in starts]
    return [np.concatenate(each) for each in zip(*parts, strict=True)]

"""Processor: image transform and tokenizer of one model, saved in its folder.

Dimensions: B batch, S side of the model's input (pixels), T tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from coca.core.config.frozen_config import Config, from_dict, to_dict
from coca.core.errors import ConfigError, ModelError
from coca.core.files.atomic import read_model_json, write_json
from coca.processing.caption_words import CAPTION_WORDS_FILE, CaptionWords, WordChoice
from coca.processing.class_words import ClassNoun
from coca.processing.clip_bpe import ClipTokenizer
from coca.processing.image import ImageConfig, ImageTransform, expect_many
from coca.processing.image_file import ImageInput, reading_threads
from coca.processing.tokenizer import TextTokenizer, Tokenizer, check_context_length
from coca.processing.tokenizer_file import build_tokenizer, read_content, vocabulary_of
from coca.processing.word_constraint import WordConstraint

FORMAT_VERSION = 1
"""Increased when older releases could misread the files of this release."""

_MANY = 32
"""Images in one call from which on decoding is parallel and fast decoders are loaded."""

PROCESSOR_FILE, TOKENIZER_FILE = "processor.json", "tokenizer.json"


class _Saved(Config):
    """Content of `processor.json`."""

    version: int
    image: ImageConfig
    context_length: int


class Processor:
    """Converter of images and captions to the inputs of one model."""

    def __init__(
        self,
        image: ImageTransform,
        tokenizer: TextTokenizer,
        context_length: int,
        *,
        caption_words: CaptionWords | None = None,
    ) -> None:
        """Combine an image transform and a tokenizer.

        Args:
            image: Image transform.
            tokenizer: Text tokenizer.
            context_length: Largest number of tokens in a caption, including special tokens.
            caption_words: Words that generated captions have; None: no list.
        """
        check_context_length(context_length)
        self.image = image
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.caption_words = caption_words
        self._constraints: dict[WordChoice, WordConstraint] = {}

    @property
    def image_config(self) -> ImageConfig:
        """Configuration of the image transform."""
        return self.image.config

    @property
    def class_nouns(self) -> tuple[ClassNoun, ...]:
        """Nouns of the image encoder's classes, which captions prefer; empty without."""
        return () if self.caption_words is None else self.caption_words.nouns

    def with_image(self, image: ImageConfig) -> "Processor":
        """Return this processor with another image transform."""
        return Processor(
            ImageTransform(image),
            self.tokenizer,
            self.context_length,
            caption_words=self.caption_words,
        )

    def images(self, sources: Sequence[ImageInput]) -> Float[Tensor, "B 3 S S"]:
        """Read, resize and normalize images to the model's input."""
        many, side = len(sources) >= _MANY, self.image_config.image_size
        if many:
            expect_many()
        squares = torch.empty(len(sources), 3, side, side, dtype=torch.uint8)

        def read(index: int) -> None:
            square = self.image.square(self.image.read(sources[index]))
            # By NumPy: torch would start its own threads for each copy.
            squares[index].numpy()[:] = square.numpy()

        with ThreadPoolExecutor(reading_threads(sources) if many else 1) as readers:
            for _ in readers.map(read, range(len(sources))):
                pass
        return self.image.normalize(squares)

    def image_batches(
        self, batches: Iterable[Sequence[ImageInput]]
    ) -> Iterator[Float[Tensor, "B 3 S S"]]:
        """Apply `images` to each batch, prefetching the next batch in a thread."""
        # One batch is enough: where reading is the bottleneck, it has all cores.
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead: Future[Tensor] | None = None
            for batch in batches:
                current, ahead = ahead, reader.submit(self.images, batch)
                if current is not None:
                    yield current.result()
            if ahead is not None:
                yield ahead.result()

    def texts(self, texts: Sequence[str]) -> Int64[Tensor, "B T"]:
        """Tokenize captions; see `Tokenizer.encode`."""
        return self.tokenizer.encode(texts, context_length=self.context_length)

    def answered(
        self, questions: Sequence[str], answers: Sequence[str]
    ) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, " B"]]:
        """Tokenize questions followed by answers; return token ids and prompt lengths.

        Question and answer are tokenized separately, so that a question has the same tokens with
        any answer and without an answer. The prompt length includes the first token of each row.
        Rows that exceed the context length are truncated at the end.
        """
        prompts = [self.tokenizer.encode_prompt(question) for question in questions]
        rows = [
            [*prompt[1:], *self.tokenizer.encode_prompt(answer)[1:]]
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        tokens = self.tokenizer.format_ids(rows, context_length=self.context_length)
        room = self.context_length - self.tokenizer.reserved + 1
        lengths = [min(len(prompt), room) for prompt in prompts]
        return tokens, torch.tensor(lengths, dtype=torch.int64)

    def word_constraint(self, choice: WordChoice) -> WordConstraint | None:
        """Return the constraint of generation to words of the list; None: no constraint."""
        if self.caption_words is None or choice == "any":
            return None
        if choice not in self._constraints:
            tokenizer = self.tokenizer
            self._constraints[choice] = WordConstraint.of_words(
                self.caption_words.chosen(choice),
                encode=tokenizer.leading_ids,
                decode=lambda ids: tokenizer.decode(ids).strip(),
                eos_id=tokenizer.eos_id,
                vocab_size=tokenizer.vocab_size,
                nouns=self.caption_words.nouns,
            )
        return self._constraints[choice]

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json`, `processor.json` and, with a list, `caption_words.txt`."""
        saved = _Saved(
            version=FORMAT_VERSION, image=self.image_config, context_length=self.context_length
        )
        self.tokenizer.save(Path(folder) / TOKENIZER_FILE)
        if self.caption_words is None:
            (Path(folder) / CAPTION_WORDS_FILE).unlink(missing_ok=True)
        else:
            self.caption_words.save(Path(folder) / CAPTION_WORDS_FILE)
        write_json(Path(folder) / PROCESSOR_FILE, to_dict(saved))

    @classmethod
    def load(cls, folder: str | Path) -> "Processor":
        """Load the files that `save` wrote."""
        path = Path(folder) / PROCESSOR_FILE
        state = read_model_json(path)
        # Checked first, since a later format may have other fields.
        version = state.get("version") if isinstance(state, dict) else None
        if version != FORMAT_VERSION:
            raise ModelError(
                f"{path} has format version {version!r}; this release reads {FORMAT_VERSION}"
            )
        try:
            saved = from_dict(_Saved, state, source=str(path))
            tokenizer = load_tokenizer(Path(folder) / TOKENIZER_FILE)
            return cls(
                ImageTransform(saved.image),
                tokenizer,
                saved.context_length,
                caption_words=CaptionWords.load(Path(folder) / CAPTION_WORDS_FILE),
            )
        except ConfigError as error:
            raise ModelError(f"{path} does not fit: {error}") from error


def load_tokenizer(path: str | Path) -> TextTokenizer:
    """Load a `tokenizer.json` as `Tokenizer` or `ClipTokenizer`, by its vocabulary."""
    content = read_content(path)
    backend = build_tokenizer(vocabulary_of(content), path)
    kind: type[ClipTokenizer | Tokenizer] = ClipTokenizer
    if backend.id_to_token(0) != "!":
        kind, backend = Tokenizer, build_tokenizer(content, path)
    try:
        return kind(backend)
    except ModelError as error:
        raise ModelError(f"{path} does not fit: {error}") from error

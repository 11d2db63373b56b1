"""One whole pretraining run: tokenizer, data, model, loop, and the finished model in a folder.

run/  recipe.json  record.json  tokenizer.json  metrics.jsonl  bad_samples.jsonl  checkpoints/
model/       what `coca.load` reads
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from coca.core.config import digest, to_dict
from coca.core.errors import ConfigError, DataError
from coca.core.files import write_atomic
from coca.core.progress import ProgressMaker, silent
from coca.core.provenance import record
from coca.data.loader import Loader, LoaderConfig
from coca.data.sources import Source, SourceConfig, open_source
from coca.data.text import LABEL_TEMPLATES
from coca.model.coca import CoCa
from coca.model.config import CoCaConfig
from coca.model.pretrained import save_model
from coca.processing.augment import Augment, AugmentConfig
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.processor import Processor
from coca.processing.tokenizer import Tokenizer
from coca.train.objective import CoCaObjective, LossConfig
from coca.train.tracker import make_trackers
from coca.train.trainer import TrainConfig, Trainer

logger = logging.getLogger(__name__)

TOKENIZER_SAMPLES = 1_000_000
"""Samples whose words the tokenizer learns from at most; more would not change it."""


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Where the tokenizer comes from."""

    path: Path | None = None
    """A `tokenizer.json` to use; null learns one from the captions of the run's sources."""
    kind: Literal["bpe", "unigram"] = "bpe"
    """What is learned."""
    lowercase: bool = True
    """Read capital letters as small ones."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the run learns from."""

    sources: tuple[SourceConfig, ...]
    """A weighted mixture; two of equal weight give half of each batch from either."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """Batches and workers."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Chance in pictures; none by default."""
    resize: Literal["squash", "crop", "pad"] = "squash"
    """How a picture becomes square."""
    trim: bool = False
    """Cut away empty borders first, as stand around icons and products."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources is empty; a run needs at least one")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A whole run, as a recipe describes it."""

    run: Path
    """Folder of the run; an interrupted run in it goes on."""
    seed: int = 0
    """Of weights, order and augmentation."""
    device: str = "auto"
    """A torch device; `auto` takes an accelerator if there is one."""
    threads: int = 0
    """CPU threads of each operation; 0 leaves it to torch. A small model on a busy machine is
    fastest with 1, beside a loader with workers."""
    model: CoCaConfig = field(default_factory=CoCaConfig)
    """The model; `text.vocab_size` is what the tokenizer learns at most."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The tokenizer."""
    data: DataConfig
    """The data."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What is minimised."""
    train: TrainConfig
    """The loop."""

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ConfigError(f"threads is {self.threads}; right is 0 for torch's choice, or more")
        classes = len(self.data.loader.class_names)
        if bool(self.loss.classification_weight) != bool(classes):
            raise ConfigError(
                "loss.classification_weight and data.loader.class_names go together: set both or "
                "neither"
            )
        if classes and self.model.num_classes != classes:
            raise ConfigError(
                f"model.num_classes is {self.model.num_classes}, but data.loader.class_names lists "
                f"{classes}"
            )


@dataclass(frozen=True)
class PretrainResult:
    """What a run made."""

    run: Path
    """Its folder."""
    model: Path
    """The model's folder, within the run's; written when the run is done or stopped."""
    step: int
    """Steps done, those of earlier calls included."""
    interrupted: bool
    """Whether a signal ended it before its last step."""
    figures: dict[str, float]
    """The last row of metrics."""


def pretrain(config: PretrainConfig, *, progress: ProgressMaker = silent) -> PretrainResult:
    """Trains a CoCa; called again on the same run, it goes on where that stopped.

    Raises:
        CocaError: Something in the recipe, the data or the folder is wrong; the message says what.
    """
    sources = [(source, open_source(source)) for source in config.data.sources]
    processor = _processor(config, sources, progress)
    torch.manual_seed(config.seed)
    model = CoCa(_fitted(config.model, processor.tokenizer))
    config.run.mkdir(parents=True, exist_ok=True)
    _compare_with_earlier(config)
    augment = Augment(config.data.augment, processor.image_config)
    loader = Loader(
        sources,
        config.data.loader,
        processor,
        seed=config.seed,
        augment=augment if config.data.augment != AugmentConfig() else None,
        bad_log=config.run / "bad_samples.jsonl",
    )
    _write_json(config.run / "recipe.json", to_dict(config))
    _write_record(config, loader.fingerprint)
    trainer = Trainer(
        model,
        CoCaObjective(config.loss),
        loader=loader,
        config=config.train,
        run_folder=config.run,
        trackers=make_trackers(config.train.trackers, config.run),
        device=config.device,
    )
    with _threads(config.threads):
        result = trainer.fit(progress)
    folder = config.run / "model"
    save_model(folder, model)
    processor.save(folder)
    return PretrainResult(config.run, folder, result.step, result.interrupted, result.figures)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch's number of threads is one for the whole process; it is put back afterwards."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_tokenizer(
    sources: Sequence[tuple[SourceConfig, Source]],
    *,
    vocab_size: int,
    config: TokenizerConfig,
    progress: ProgressMaker = silent,
) -> Tokenizer:
    """Learns a tokenizer from all words of the sources: captions, labels and templates.

    Raises:
        DataError: The sources hold no words.
    """
    total = min(sum(len(source) for _, source in sources), TOKENIZER_SAMPLES)
    with progress("reading captions", total) as bar:

        def texts() -> Iterator[str]:
            for text in _texts(sources):
                bar.advance()
                yield text

        return Tokenizer.train(
            texts(), vocab_size=vocab_size, kind=config.kind, lowercase=config.lowercase
        )


def _texts(sources: Sequence[tuple[SourceConfig, Source]]) -> Iterator[str]:
    """The words of each sample in one text; every n-th sample of sources that are very long."""
    total = sum(len(source) for _, source in sources)
    step = -(-total // TOKENIZER_SAMPLES)
    for config, source in sources:
        templates = config.templates or (LABEL_TEMPLATES if config.text == "labels" else ("{}",))
        for row in range(0, len(source), step):
            try:
                sample = source.read(row)
            except DataError:
                continue  # the loader counts and names it when the run meets it
            words = sample.labels if config.text == "labels" else sample.captions
            template = templates[row % len(templates)]
            yield "\n".join(template.replace("{}", text) for text in words)


def _processor(
    config: PretrainConfig,
    sources: Sequence[tuple[SourceConfig, Source]],
    progress: ProgressMaker,
) -> Processor:
    """The run's processor; a learned tokenizer is kept in its folder, and read from there again."""
    path = config.tokenizer.path or config.run / "tokenizer.json"
    if path.exists() or config.tokenizer.path is not None:
        tokenizer = Tokenizer.load(path)
    else:
        tokenizer = train_tokenizer(
            sources,
            vocab_size=config.model.text.vocab_size,
            config=config.tokenizer,
            progress=progress,
        )
        config.run.mkdir(parents=True, exist_ok=True)
        tokenizer.save(path)
    image = ImageConfig(
        image_size=config.model.image.image_size,
        resize=config.data.resize,
        trim=config.data.trim,
    )
    return Processor(ImageTransform(image), tokenizer, config.model.text.context_length)


def _fitted(config: CoCaConfig, tokenizer: Tokenizer) -> CoCaConfig:
    """A small corpus may hold fewer pieces than asked for; the model need not be larger."""
    asked, found = config.text.vocab_size, tokenizer.vocab_size
    if found > asked:
        raise ConfigError(
            f"the tokenizer knows {found} words, but model.text.vocab_size is {asked}; raise it to "
            f"{found}"
        )
    return replace(config, text=replace(config.text, vocab_size=found))


def _compare_with_earlier(config: PretrainConfig) -> None:
    """What the trainer cannot see has to stay, or is at least told, when a run goes on."""
    path = config.run / "recipe.json"
    if not path.exists():
        return
    before, now = json.loads(path.read_text(encoding="utf-8")), to_dict(config)
    for name in ("seed", "tokenizer"):
        if before.get(name) != now[name]:
            raise ConfigError(
                f"{config.run} was begun with {name} {before.get(name)}, now it is {now[name]}; "
                "give the new run another folder"
            )
    for name in ("data", "loss"):
        if before.get(name) != now[name]:
            logger.warning("%s goes on with changed settings of %s", config.run, name)


def _write_record(config: PretrainConfig, data_fingerprint: str) -> None:
    """One entry for each start of the run, so that a resumed run tells its whole story."""
    path = config.run / "record.json"
    entries = json.loads(path.read_text(encoding="utf-8"))["starts"] if path.exists() else []
    entry = record(config=config, seed=config.seed, data_fingerprint=data_fingerprint, extra={})
    _write_json(path, {"recipe": digest(config), "starts": [*entries, entry]})


def _write_json(path: Path, content: object) -> None:
    write_atomic(path, (json.dumps(content, indent=2) + "\n").encode())

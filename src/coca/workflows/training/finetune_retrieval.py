"""Retrieval run: fine-tune an image-text model of another library on image-text pairs.

run/  recipe.json  record.json  metrics.jsonl  bad_samples.jsonl  checkpoints/  scores/
model/       a folder of OpenCLIP or transformers, which that library and `coca.load` read

Dimensions: B pairs, S side of the image (pixels), T tokens of a text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from coca.core.config.frozen_config import Config
from coca.core.errors import ConfigError
from coca.core.malloc import keep_freed_memory
from coca.core.progress import ProgressMaker, silent
from coca.inference.image_text_predictor import ImageTextPredictor
from coca.inference.open_weights import model_folder
from coca.inference.tower import load_tower
from coca.model.lora import LoraConfig, add_lora_, merged
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.processor import Processor
from coca.tasks import TaskConfig
from coca.tasks.task import check_task
from coca.train.distributed.context import DistributedContext
from coca.train.objective import ContrastiveObjective, Embedded, LossConfig
from coca.train.trainer import TrainConfig
from coca.workflows.training.finetune import FinetuneDataConfig, scored
from coca.workflows.training.pretrain_data import open_sources
from coca.workflows.training.training_run import (
    RunConfig,
    RunResult,
    adapted,
    compare_with_earlier,
    start_trainer,
    threads,
    weights_described,
)

MIN_LOG_SCALE, MAX_LOG_SCALE = 0.0, 4.6052
"""Range of the logarithm of the logit scale, 1 to 100, to which CLIP and OpenCLIP clamp it."""
_INPUTS = ("embed", "conv1", "_pre", "pre_", "stem", "patch")
"""Parts of the names of layers before the blocks, in both libraries."""


@dataclass(frozen=True, kw_only=True)
class RetrievalLoraConfig(LoraConfig):
    """Adapters for the linear layers of an image-text model."""

    match: tuple[str, ...] = ("*",)
    """Linear layers to adapt, by dotted name in the library's model; default: all. Attention of
    OpenCLIP's own transformers has one matrix for queries, keys and values, not a layer."""
    modules_to_save: tuple[str, ...] = ()
    """Modules to train in full, by name as in `match`. Scale and bias of the loss always are."""


@dataclass(frozen=True, kw_only=True)
class RetrievalChoice(Config):
    """The contrastive loss, and the layers it trains."""

    loss: Literal["softmax", "sigmoid"] | None = None
    """`softmax` is the loss of CLIP, the mean of both directions; `sigmoid` that of SigLIP, for a
    model with a bias. null: `sigmoid` if the model has a bias, else `softmax`."""
    last_blocks: PositiveInt | None = None
    """Train the last blocks of both encoders (stages of a ConvNet), and the layers after them.
    null: all weights."""


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(RunConfig):
    """Configuration of a retrieval run, as in a recipe."""

    model: str
    """Image-text model of OpenCLIP or transformers, by any name that `coca.load` accepts."""
    retrieval: RetrievalChoice = field(default_factory=RetrievalChoice)
    """The loss, and the layers it trains."""
    lora: RetrievalLoraConfig | None = None
    """Train low-rank adapters in place of the weights; they are merged at the end. null: none."""
    data: FinetuneDataConfig
    """Pairs of image and text; preprocessing is that of the model."""
    train: TrainConfig
    """The training loop; `micro_batch` bounds the memory of large batches, with equal results."""
    evaluate: tuple[TaskConfig, ...] = ()
    """Tasks to evaluate the finished model on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        faults = []
        if self.lora is not None and self.retrieval.last_blocks is not None:
            faults.append("lora and retrieval.last_blocks are both set; set one of the two")
        if self.train.parallel == "fsdp":
            faults.append("train.parallel is fsdp, which is for models of coca; use ddp")
        if self.data.features is not None:
            faults.append("data.features are of a frozen encoder, and this trains it; leave it out")
        if faults:
            raise ConfigError("; ".join(faults))


def finetune_retrieval(config: RetrievalConfig, *, progress: ProgressMaker = silent) -> RunResult:
    """Fine-tune an image-text model on pairs; the same call resumes a run.

    Raises:
        CocaError: The recipe, the data or the run folder is invalid; the message gives the reason.
    """
    keep_freed_memory()
    world = DistributedContext.current()
    sources = open_sources(config.data.sources)
    fixed = ("seed", "model", "retrieval", "lora")
    world.broadcast_from_main(lambda: compare_with_earlier(config, fixed=fixed, logged=("data",)))
    tower = load_tower(model_folder(config.model))
    for task in config.evaluate:
        check_task(tower, task)
    torch.manual_seed(config.seed)
    model = PairModel(tower)
    has_bias = model.logit_bias is not None
    loss = config.retrieval.loss or ("sigmoid" if has_bias else "softmax")
    if loss == "sigmoid" and not has_bias:
        raise ConfigError(
            f"retrieval.loss is sigmoid, but {config.model} has no bias; set it to softmax"
        )
    train = config.train
    if config.lora is not None:
        add_lora_(model, config.lora, trained=("*logit_scale", "*logit_bias"))
        train = adapted(train, config.lora, head=False)
    elif config.retrieval.last_blocks is not None:
        frozen = (*first_layers(model, config.retrieval.last_blocks), *train.optimizer.freeze)
        train = replace(train, optimizer=replace(train.optimizer, freeze=frozen))
    torch.manual_seed(config.seed + world.rank)
    trainer = start_trainer(
        config,
        model,
        ContrastiveObjective(
            LossConfig(
                captioning_weight=0.0,
                contrastive=loss,
                contrastive_reduction="mean" if loss == "softmax" else "sum",
            )
        ),
        config.data.for_head(None),
        sources,
        PairProcessor(tower),
        train=train,
        facts={"ranks": world.size, "model_weights": weights_described(train), "loss": loss},
    )
    with threads(config.threads):
        result = trainer.fit(progress)
        weights = trainer.weights()
    if config.lora is not None:
        weights = merged(weights, config.lora)

    def write() -> Path:
        finished = load_tower(model_folder(config.model))
        state = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
        finished.model.load_state_dict(finished.model.state_dict() | state)
        finished.save(config.run / "model")
        return config.run / "model"

    folder = world.broadcast_from_main(write)
    return scored(
        config, config.evaluate, result, folder=folder, device=trainer.device, progress=progress
    )


@dataclass(frozen=True, kw_only=True)
class PairModelConfig(Config):
    """Identity of the model that a run starts from."""

    fingerprint: str
    """Fingerprint of its files."""


class PairModel(nn.Module):
    """An image-text model as a module of pairs; the library's model is its only part."""

    def __init__(self, predictor: ImageTextPredictor) -> None:
        super().__init__()
        self.config = PairModelConfig(fingerprint=predictor.fingerprint)
        self.model: nn.Module = predictor.model.requires_grad_(True)
        self._predictor = predictor

    def forward(self, images: Float[Tensor, "B 3 S S"], tokens: Int[Tensor, "B T"]) -> Embedded:
        """Compute unit vectors of images and texts, with scale and bias of the loss."""
        predictor, bias = self._predictor, self.logit_bias
        return Embedded(
            F.normalize(predictor.image_features(images), dim=-1),
            F.normalize(predictor.text_features(tokens), dim=-1),
            self.log_scale.exp().reshape(()),
            None if bias is None else bias.reshape(()),
        )

    @property
    def vision(self) -> nn.Module:
        """The image encoder."""
        return self._predictor.vision

    @property
    def log_scale(self) -> nn.Parameter:
        """Logarithm of the logit scale."""
        return self._predictor.model.logit_scale

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """Bias of the sigmoid loss; None in models of the softmax loss."""
        return getattr(self._predictor.model, "logit_bias", None)

    @torch.no_grad()
    def clamp_temperature_(self) -> None:
        """Clamp the logit scale to its range."""
        self.log_scale.clamp_(MIN_LOG_SCALE, MAX_LOG_SCALE)


class PairProcessor(Processor):
    """Images and texts to the inputs of an image-text model, for the data loader."""

    def __init__(self, predictor: ImageTextPredictor) -> None:
        settings = predictor.image_settings
        image = ImageConfig(
            image_size=settings.image_size,
            resize="squash" if settings.resize == "squash" else "shortest",
            mean=settings.mean,
            std=settings.std,
            interpolation=settings.interpolation,
        )
        self.image = ImageTransform(image)
        self.context_length, self.caption_words = predictor.context_length, None
        self._tokenize = predictor.tokenize

    def texts(self, texts: Sequence[str]) -> Int[Tensor, "B T"]:
        """Tokenize texts by the model's own tokenizer."""
        return self._tokenize(list(texts))

    def save(self, folder: str | Path) -> None:
        """Write nothing: the files of the model have its preprocessing and tokenizer."""


def first_layers(model: PairModel, last: int) -> Iterator[str]:
    """Yield the names of the parameters before the last blocks of both encoders."""
    image = {id(weight) for weight in model.vision.parameters()}
    named = dict(model.named_parameters())
    for is_image in (True, False):
        own = {name: it for name, it in named.items() if (id(it) in image) == is_image}
        ids = {id(weight) for weight in own.values()}
        chains: list[nn.ModuleList | nn.Sequential] = [
            module
            for module in model.modules()
            if isinstance(module, nn.ModuleList | nn.Sequential)
            and {id(weight) for weight in module.parameters()} <= ids
        ]
        blocks = max(chains, key=lambda it: sum(weight.numel() for weight in it.parameters()))
        if last > len(blocks):
            raise ConfigError(
                f"retrieval.last_blocks is {last}, but the {'image' if is_image else 'text'} "
                f"encoder has {len(blocks)}; set it to {len(blocks)} at most"
            )
        inner = {id(weight) for weight in blocks.parameters()}
        trained = {id(weight) for block in list(blocks)[-last:] for weight in block.parameters()}
        for name, weight in own.items():
            is_input = id(weight) not in inner and any(part in name for part in _INPUTS)
            if is_input or (id(weight) in inner and id(weight) not in trained):
                yield name

"""Evaluation while a run trains: validation loss, tasks, sample captions, and the best weights.

run/  best/                     model of the best evaluation so far, with its score
      samples/step_00000500/    captions.jsonl, and a thumbnail of each image
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from coca.core.config.frozen_config import Config
from coca.core.errors import CocaError, ConfigError, DataError, did_you_mean
from coca.core.files.atomic import atomic_folder, read_json, write_json
from coca.core.progress import progress_bar, progress_maker, show_progress, silent
from coca.data.loading.loader import Loader, LoaderConfig
from coca.data.sources.source import SourceConfig
from coca.model.checkpoint import step_name
from coca.model.coca import CoCa
from coca.model.pretrained import save_model
from coca.predict.caching import caching
from coca.predict.run_model import BEST_FOLDER, TRAINING_FILE
from coca.predict.torch_loading import as_predictor
from coca.predict.torch_predictor import TorchPredictor
from coca.processing.processor import Processor
from coca.tasks import TASKS, TaskConfig
from coca.tasks.baselines import without_baselines
from coca.tasks.task import check_task, read_samples, thumbnail
from coca.train.backward import evaluate_batch
from coca.train.distributed.context import DistributedContext
from coca.train.tracker import CaptionSample, CaptionTracker
from coca.train.trainer import Trainer
from coca.workflows.training.pretrain_data import open_sources

logger = logging.getLogger(__name__)

SAMPLES_FOLDER, CAPTIONS_FILE = "samples", "captions.jsonl"
"""Folder of a run with sample captions of each evaluation, and their file."""
VALIDATION = "val/"
"""Prefix of the losses and metrics on `EvalConfig.sources`."""


class Best(NamedTuple):
    """The best evaluation of a run so far."""

    score: str
    value: float
    step: int


def best_of(run: Path) -> Best | None:
    """Return score, value and step of the best weights of a run, if it has any."""
    try:
        return Best(**read_json(run / BEST_FOLDER / TRAINING_FILE))
    except (OSError, ValueError, TypeError):
        return None


class EvalConfig(Config):
    """Evaluation while a run trains; it does not change the training's numbers."""

    every: PositiveInt = 1000
    """Steps between two evaluations; one more follows the last step."""
    sources: tuple[SourceConfig, ...] = ()
    """Held-out sources of the validation loss (`val/loss` and its parts)."""
    samples: NonNegativeInt = 1024
    """Samples of the validation loss, in whole batches: the same at each evaluation. 0: all."""
    batch_size: PositiveInt | None = None
    """Samples in a batch of the validation loss, summed over all ranks. The contrastive loss grows
    with it. null: that of the training, or its micro-batches if there are any."""
    tasks: tuple[TaskConfig, ...] = ()
    """Tasks of `coca evaluate`, spread over the ranks; a score is named `TASK/METRIC`."""
    captions: NonNegativeInt = 0
    """Images of the first of `sources` that are captioned at each evaluation."""
    best: str = ""
    """Score by which the best weights are kept, such as `retrieval/image_to_text_recall@1`. Losses,
    ranks and the temperature are best when low, all else when high. Default: `val/loss`, or the
    first score of the first task."""

    @model_validator(mode="after")
    def _check_rules(self) -> "EvalConfig":
        for task in self.tasks:
            TASKS.get(task.task)
        faults = []
        if not self.sources and not self.tasks:
            faults.append("eval has neither sources nor tasks; set at least one of them")
        if self.captions and not self.sources:
            faults.append(f"eval.captions is {self.captions}, but eval.sources has no images")
        prefixes = [*([VALIDATION] if self.sources else []), *(f"{it}/" for it in self.names())]
        if self.best and not self.best.startswith(tuple(prefixes)):
            faults.append(
                f"eval.best is {self.best!r}; it must begin with {' or '.join(prefixes)}, the "
                "prefixes of the scores of this run"
            )
        if faults:
            raise ConfigError("; ".join(faults))
        return self

    def names(self) -> list[str]:
        """Name the tasks; a second task of a kind gets a number."""
        kinds = [task.task for task in self.tasks]
        counts = [kinds[: number + 1].count(kind) for number, kind in enumerate(kinds)]
        return [f"{k}{c}" if c > 1 else k for k, c in zip(kinds, counts, strict=True)]


class RunEvaluation:
    """Evaluates the model of a run; all ranks make one, and call its methods together."""

    def __init__(
        self,
        config: EvalConfig,
        *,
        run: Path,
        processor: Processor,
        loader: LoaderConfig,
        micro_batch: int | None,
        finished: Callable[[Mapping[str, Tensor]], CoCa],
    ) -> None:
        """Open the held-out sources; nothing is evaluated."""
        self.every = config.every
        self._config, self._run, self._processor = config, run, processor
        self._finished = finished
        self._world = DistributedContext.current()
        self._sources = open_sources(config.sources)
        size = config.batch_size or (micro_batch or 0) * self._world.size or loader.batch_size
        self._loader = loader.replace(batch_size=self._fitted(size))

    def check(self, trainer: Trainer[Any]) -> None:
        """Raise an error for a task that cannot run, before the first step."""
        weights = trainer.weights(keep=self._world.is_main) if self._config.tasks else {}

        def check() -> None:
            for task in self._config.tasks:
                check_task(self._predictor(weights, trainer), task)

        self._world.broadcast_from_main(check)

    def __call__(self, trainer: Trainer[Any]) -> dict[str, float]:
        """Evaluate the weights that the run would finish with now; return the scores by name.

        A task or a batch that fails is logged, and the run continues without its scores.
        """
        # Bars of its own within the bar of the training.
        with show_progress(progress_maker() if self._world.is_main else silent):
            return self._evaluated(trainer)

    def _evaluated(self, trainer: Trainer[Any]) -> dict[str, float]:
        scores = self._validate(trainer) if self._sources else {}
        is_main, config = self._world.is_main, self._config
        if config.tasks or config.captions:
            # The validation loss runs on shards; only a rank with a task needs the whole model.
            own = self._tasks()[self._world.rank :: self._world.size]
            needs_model = bool(own) or (is_main and bool(config.captions))
            weights = trainer.weights(keep=needs_model)
            predictor = self._predictor(weights, trainer) if needs_model else None
            scores |= self._run_tasks(predictor, own)
            if predictor is not None and is_main and config.captions:
                self._write_captions(predictor, trainer)
        best = self._world.broadcast_from_main(lambda: self._new_best(scores, trainer.step))
        if best is not None:
            if not (config.tasks or config.captions):
                weights = trainer.weights(keep=is_main)
            if is_main:
                self._keep(best, weights)
        return scores

    def _fitted(self, size: int) -> int:
        """Reduce the batch size to the number of samples; it stays divisible by the ranks."""
        ranks = self._world.size
        fitted = min(size, self._samples) // ranks * ranks
        if self._sources and not fitted:
            raise ConfigError(
                f"eval.batch_size is {size} and eval.sources have {self._samples} samples to use, "
                f"but {ranks} ranks need at least one sample each"
            )
        return fitted or size

    @property
    def _samples(self) -> int:
        total = sum(len(source) for _, source in self._sources)
        return min(self._config.samples or total, total)

    def _validate(self, trainer: Trainer[Any]) -> dict[str, float]:
        """Compute the mean losses and metrics over the held-out samples, on all ranks together."""
        loader = Loader(
            self._sources,
            self._loader,
            self._processor,
            seed=0,
            rank=self._world.rank,
            world_size=self._world.size,
        )
        count = self._samples // self._loader.batch_size
        sums: dict[str, float] = {}
        batches = islice(loader, count)
        # Some losses draw classes or sentences: the same at each evaluation.
        torch.manual_seed(self._world.rank)
        with trainer.averaged(), progress_bar("validation", count) as bar:
            for _ in range(count):
                batch, error = None, None
                try:
                    batch = next(batches)
                except DataError as caught:
                    error = caught
                errors = [it for it in self._world.gather(error) if it is not None]
                if errors or batch is None:
                    self._report(f"the validation loss is left out: {errors[0]}")
                    return {}
                losses = evaluate_batch(
                    trainer.parallel, trainer.objective, batch, autocast=trainer.autocast
                )
                for name, value in {"loss": losses.total, **losses.parts}.items():
                    sums[name] = sums.get(name, 0.0) + float(value) / count
                bar.advance()
        return {f"{VALIDATION}{name}": value for name, value in sums.items()}

    def _tasks(self) -> list[tuple[str, TaskConfig]]:
        return list(zip(self._config.names(), self._config.tasks, strict=True))

    def _run_tasks(
        self, predictor: TorchPredictor | None, tasks: Sequence[tuple[str, TaskConfig]]
    ) -> dict[str, float]:
        """Run this rank's tasks, and gather the scores of all ranks."""
        own: dict[str, float] = {}
        problems = []
        # Several tasks often read the same samples.
        cached = caching(predictor) if predictor and len(tasks) > 1 else predictor
        for name, task in tasks:
            assert cached is not None, "a rank with a task has the model"
            try:
                result = TASKS.get(task.task)(cached, task)
            except CocaError as error:
                problems.append(f"{name} is left out: {error}")
            else:
                metrics = without_baselines(result.metrics)
                own |= {f"{name}/{metric}": float(value) for metric, value in metrics.items()}
        scores: dict[str, float] = {}
        for found, failed in self._world.gather((own, problems), patient=True):
            scores |= found
            for problem in failed:
                self._report(problem)
        return scores

    def _predictor(self, weights: Mapping[str, Tensor], trainer: Trainer[Any]) -> TorchPredictor:
        model = self._finished(weights).to(trainer.device)
        source = f"{self._run} at step {trainer.step}"
        return as_predictor(model, self._processor, fingerprint=source, source=source)

    def _write_captions(self, predictor: TorchPredictor, trainer: Trainer[Any]) -> None:
        """Caption the first held-out images; write them, and log them where a tracker can."""
        try:
            found, _ = read_samples(self._config.sources[0], limit=self._config.captions)
            written = predictor.caption([sample.image for sample in found])
        except CocaError as error:
            self._report(f"the sample captions are left out: {error}")
            return
        samples = [
            CaptionSample(thumbnail(sample.image), caption.text, sample.captions)
            for sample, caption in zip(found, written, strict=True)
        ]
        with atomic_folder(self._run / SAMPLES_FOLDER / step_name(trainer.step)) as folder:
            lines = []
            for number, (sample, (image, caption, references)) in enumerate(
                zip(found, samples, strict=True)
            ):
                (folder / f"{number}.webp").write_bytes(image)
                line = {"key": sample.key, "image": f"{number}.webp", "caption": caption}
                lines.append(json.dumps({**line, "references": references}, ensure_ascii=False))
            (folder / CAPTIONS_FILE).write_text("\n".join([*lines, ""]), encoding="utf-8")
        for tracker in trainer.trackers:
            if isinstance(tracker, CaptionTracker):
                tracker.log_captions(trainer.step, samples)

    def _new_best(self, scores: Mapping[str, float], step: int) -> Best | None:
        """Return the score of the weights if it is better than that of the kept ones."""
        if not scores:
            return None
        name = self._config.best or next(iter(scores))
        if name not in scores:
            self._report(
                f"eval.best is {name!r}, which is not a score; {did_you_mean(name, scores)}"
            )
            return None
        value, before = scores[name], best_of(self._run)
        sign = -1 if is_best_low(name) else 1
        if before is not None and before.score == name and sign * before.value >= sign * value:
            return None
        return Best(name, value, step)

    def _keep(self, best: Best, weights: Mapping[str, Tensor]) -> None:
        with atomic_folder(self._run / BEST_FOLDER) as folder:
            save_model(folder, self._finished(weights))
            self._processor.save(folder)
            write_json(folder / TRAINING_FILE, best._asdict())

    def _report(self, problem: str) -> None:
        if self._world.is_main:
            logger.warning("%s", problem)


def is_best_low(score: str) -> bool:
    """Return whether lower values of a score are better."""
    prefix, _, metric = score.partition("/")
    losses = f"{prefix}/" == VALIDATION and not metric.endswith("@1")
    return losses or "rank" in metric or "loss" in metric or "perplexity" in metric

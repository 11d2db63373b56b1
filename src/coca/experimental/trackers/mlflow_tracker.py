"""The tracker `mlflow`: MLflow."""

import io
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from coca.core.errors import ConfigError
from coca.core.extras import require
from coca.core.files.atomic import read_json, write_json
from coca.train.tracker import CaptionSample, recipe_of


class MlflowTracker:
    """A run of MLflow."""

    def __init__(self, run_dir: Path) -> None:
        self._mlflow: Any = require("mlflow", extra="mlflow")
        self.folder = run_dir
        self._client: Any = None
        self._id = ""
        self._logged = -1

    def rewind(self, step: int) -> None:
        """Start or continue the run, with the settings of `recipe.json`."""
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            # The store without a server; MLflow asks for this consent since its version 3.7.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (self.folder / "mlruns").resolve().as_uri()
        path = self.folder / "mlflow.json"
        try:
            self._client = self._mlflow.MlflowClient(tracking_uri=uri)
            if not path.exists():
                write_json(path, {"id": self._new_run()})
            self._id = read_json(path)["id"]
            self._client.update_run(self._id, status="RUNNING")
            history = self._client.get_metric_history(self._id, "lr")
        except self._mlflow.MlflowException as error:
            raise ConfigError(
                f"MLflow at {uri} cannot continue a run: {error}; set MLFLOW_TRACKING_URI, or "
                "leave mlflow out of train.trackers"
            ) from error
        self._logged = max((metric.step for metric in history), default=-1)

    def _new_run(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "coca")
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        run = self._client.create_run(experiment, run_name=self.folder.resolve().name)
        for key, value in flattened(recipe_of(self.folder)).items():
            self._client.log_param(run.info.run_id, key, str(value)[:500])
        return str(run.info.run_id)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        if step <= self._logged:
            return
        now = time.time_ns() // 1_000_000
        points = [
            self._mlflow.entities.Metric(name.replace("@", "_at_"), value, now, step)
            for name, value in metrics.items()
        ]
        self._client.log_batch(self._id, metrics=points)

    def log_captions(self, step: int, samples: Sequence[CaptionSample]) -> None:
        """Log the images and a table of the captions as artifacts."""
        if step <= self._logged:
            return
        for number, sample in enumerate(samples):
            image = Image.open(io.BytesIO(sample.image)).convert("RGB")
            self._client.log_image(self._id, image, f"captions/{step}/{number}.png")
        lines = (f"{number}\t{sample.caption}\n" for number, sample in enumerate(samples))
        self._client.log_text(self._id, "".join(lines), f"captions/{step}/captions.tsv")

    def close(self) -> None:
        """Mark the run as finished; `rewind` continues it."""
        if self._client is not None:
            self._client.set_terminated(self._id)
            self._client = None


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names; lists become `name.0`, `name.1`."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, list | tuple):
            value = {str(number): one for number, one in enumerate(value)}
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{key}.")
        elif value != {}:
            flat[key] = value
    return flat

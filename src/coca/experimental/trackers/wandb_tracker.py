"""The tracker `wandb`: Weights & Biases."""

import io
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from coca.core.errors import ConfigError
from coca.core.extras import require
from coca.core.files.atomic import read_json, write_json
from coca.train.tracker import CaptionSample, recipe_of, storage_errors


class WandbTracker:
    """A run of Weights & Biases, online or offline by its own settings; needs the extra `wandb`.

    Project, account and mode come from its variables `WANDB_PROJECT`, `WANDB_API_KEY` and
    `WANDB_MODE`. Every start continues the same run. A row of a step that was logged before is left
    out: W&B forgets nothing, and a resumed run repeats the same numbers.
    """

    def __init__(self, run_dir: Path) -> None:
        self._wandb: Any = require("wandb", extra="wandb")
        self.folder = run_dir
        self._run: Any = None
        self._logged = -1

    def rewind(self, step: int) -> None:
        """Start or continue the run, with the settings of `recipe.json`."""
        self.close()
        path = self.folder / "wandb" / "run.json"
        with storage_errors(path):
            if not path.exists():
                write_json(path, {"id": secrets.token_hex(4), "logged": -1})
            about = read_json(path)
            self._logged = about["logged"]
            try:
                self._run = self._wandb.init(
                    id=about["id"],
                    resume="allow",
                    name=self.folder.resolve().name,
                    dir=str(self.folder),
                    config=recipe_of(self.folder),
                    settings=self._wandb.Settings(console="off", silent=True),
                )
            except self._wandb.Error as error:
                reason = str(error).partition("\n")[0]
                raise ConfigError(
                    f"Weights & Biases cannot start a run ({reason}); log in with `wandb login`, "
                    "set WANDB_MODE=offline, or leave wandb out of train.trackers"
                ) from error

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        assert self._run is not None, "rewind starts the run"
        if step > self._logged:
            self._run.log(dict(metrics), step=step, commit=True)  # now, before a kill
            self._logged = step
            path = self.folder / "wandb" / "run.json"
            with storage_errors(path):
                write_json(path, {"id": self._run.id, "logged": step})

    def log_captions(self, step: int, samples: Sequence[CaptionSample]) -> None:
        """Log the images with their captions, as part of the row that follows."""
        assert self._run is not None, "rewind starts the run"
        if step > self._logged:
            images = [
                self._wandb.Image(Image.open(io.BytesIO(sample.image)), caption=sample.caption)
                for sample in samples
            ]
            self._run.log({"captions": images}, step=step, commit=False)

    def close(self) -> None:
        """Finish the upload, or the file of an offline run."""
        if self._run is not None:
            self._run.finish()
            self._run = None

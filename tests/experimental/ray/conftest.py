from cli.conftest import cwd, model, run, run_json
from tiny_collection import images, predictor

__all__ = ["cwd", "images", "model", "predictor", "run", "run_json"]

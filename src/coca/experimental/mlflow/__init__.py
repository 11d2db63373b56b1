"""MLflow as a tracker of training runs: `train.trackers: [jsonl, mlflow]` in a recipe.

The run is on the server in `MLFLOW_TRACKING_URI`, else in `RUN/mlruns`. The experiment is
`MLFLOW_EXPERIMENT_NAME`, or `coca`. Every start continues the same run; a step that was logged
before is left out, since MLflow cannot remove rows.
"""

"""MLflow and Weights & Biases as trackers of runs: `train.trackers: [jsonl, mlflow]` in a recipe.

A run of MLflow is on the server in `MLFLOW_TRACKING_URI`, else in `RUN/mlruns`. The experiment is
`MLFLOW_EXPERIMENT_NAME`, or `coca`. Every start continues the same run; a step that was logged
before is left out, since MLflow cannot remove rows.
"""

"""Workflows that train: pretraining and fine-tuning."""

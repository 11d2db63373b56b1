"""Downstream tasks and their scores; importing this package registers all tasks."""

from coca.tasks import captioning, detection
from coca.tasks.base import TASKS, Task, TaskConfig, TaskResult
from coca.tasks.classification import linear_probe, recognition, zero_shot
from coca.tasks.retrieval import (
    image_retrieval,
    image_text_retrieval,
    keyword_search,
    pixel_baseline,
    synonyms,
)
from coca.tasks.understanding import entailment, vqa

__all__ = [
    "TASKS",
    "Task",
    "TaskConfig",
    "TaskResult",
    "captioning",
    "detection",
    "entailment",
    "image_retrieval",
    "image_text_retrieval",
    "keyword_search",
    "linear_probe",
    "pixel_baseline",
    "recognition",
    "synonyms",
    "vqa",
    "zero_shot",
]

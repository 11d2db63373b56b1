"""Downstream tasks and their scores; importing this package registers all tasks."""

from coca.tasks import (
    captioning,
    detection,
    entailment,
    image_retrieval,
    keyword_search,
    linear_probe,
    pixel_baseline,
    recognition,
    retrieval,
    synonyms,
    vqa,
    zero_shot,
)
from coca.tasks.base import TASKS, Task, TaskConfig, TaskResult

__all__ = [
    "TASKS",
    "Task",
    "TaskConfig",
    "TaskResult",
    "captioning",
    "detection",
    "entailment",
    "image_retrieval",
    "keyword_search",
    "linear_probe",
    "pixel_baseline",
    "recognition",
    "retrieval",
    "synonyms",
    "vqa",
    "zero_shot",
]

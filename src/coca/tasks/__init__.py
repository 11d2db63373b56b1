"""Downstream tasks and their scores; importing this package registers all tasks."""

from coca.tasks import captioning, detection, understanding
from coca.tasks.classification import linear_probe, recognition, zero_shot
from coca.tasks.retrieval import image_retrieval, image_text_retrieval, keyword_search, synonyms
from coca.tasks.task import TASKS, Task, TaskConfig, TaskResult

__all__ = [
    "TASKS",
    "Task",
    "TaskConfig",
    "TaskResult",
    "captioning",
    "detection",
    "image_retrieval",
    "image_text_retrieval",
    "keyword_search",
    "linear_probe",
    "recognition",
    "synonyms",
    "understanding",
    "zero_shot",
]

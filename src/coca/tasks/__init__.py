"""Downstream tasks and their scores; importing this package registers all tasks."""

from coca.tasks import captioning, image_text_retrieval, understanding
from coca.tasks.classification import linear_probe, recognition, zero_shot
from coca.tasks.task import TASKS, Task, TaskConfig, TaskResult

__all__ = [
    "TASKS",
    "Task",
    "TaskConfig",
    "TaskResult",
    "captioning",
    "image_text_retrieval",
    "linear_probe",
    "recognition",
    "understanding",
    "zero_shot",
]

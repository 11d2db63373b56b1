"""Downstream tasks and their scores; importing this package registers all tasks."""

from coca.tasks import captioning, image_text_retrieval, understanding
from coca.tasks.classification import recognition, zero_shot
from coca.tasks.task import TASKS, Task, TaskConfig, TaskResult

__all__ = [
    "TASKS",
    "Task",
    "TaskConfig",
    "TaskResult",
    "captioning",
    "image_text_retrieval",
    "recognition",
    "understanding",
    "zero_shot",
]

"""Downstream problems and their scores; importing this room registers all of its tasks."""

from coca.tasks import (
    captioning,
    detection,
    image_retrieval,
    linear_probe,
    pixel_floor,
    recognition,
    retrieval,
    statements,
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
    "image_retrieval",
    "linear_probe",
    "pixel_floor",
    "recognition",
    "retrieval",
    "statements",
    "vqa",
    "zero_shot",
]

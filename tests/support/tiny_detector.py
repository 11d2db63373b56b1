"""The folder of a detector small enough for a test."""

from pathlib import Path

import torch

from coca.model.detector import Detector, DetectorConfig, save_detector
from coca.model.pretrained import load_model
from tiny_model import write_model
from tiny_seed import seed_weights

CLASSES = ("cat", "dog")


def write_detector(folder: Path) -> Path:
    """An untrained detector with confident scores."""
    write_model(folder)
    seed_weights()
    detector = Detector(load_model(folder), DetectorConfig(classes=CLASSES, channels=32))
    with torch.no_grad():
        detector.head.classification_head.cls_logits.bias.fill_(1.0)
    save_detector(folder, detector)
    return folder

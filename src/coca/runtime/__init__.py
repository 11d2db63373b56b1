"""ONNX inference without torch: embeddings, captions and scores of an exported model."""

from coca.runtime.predictor import Predictor, load

__all__ = ["Predictor", "load"]

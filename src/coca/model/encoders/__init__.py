"""Image encoders by kind: Vision Transformer, EfficientNet-Lite, models of timm; their weights."""

# Importing a module registers its kind.
import coca.model.encoders.efficientnet
import coca.model.encoders.timm
import coca.model.encoders.vit  # noqa: F401

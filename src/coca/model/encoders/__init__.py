"""Image encoders by kind: a Vision Transformer, any model of timm, and their pretrained weights."""

# Importing a module registers its kind.
import coca.model.encoders.timm
import coca.model.encoders.vit  # noqa: F401

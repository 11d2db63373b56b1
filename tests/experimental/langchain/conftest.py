"""The model and the images of the tests of adapters."""

from release.adapters.conftest import folder, images, predictor

__all__ = ["folder", "images", "predictor"]

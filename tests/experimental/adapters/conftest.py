"""The model and the images of the tests of `coca.integrations`."""

from integrations.conftest import folder, images, predictor

__all__ = ["folder", "images", "predictor"]

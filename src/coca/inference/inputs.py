"""Input types of the predictor, which it shares with the predictor without torch."""

from coca.runtime.inputs import ImageInput, as_images, as_texts, prompts_for

__all__ = ["ImageInput", "as_images", "as_texts", "prompts_for"]

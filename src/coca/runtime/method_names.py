"""Names of other libraries for the methods of a predictor, for the errors of wrong names."""

from difflib import get_close_matches

METHODS = {
    "embed_images": ("encode_image", "encode_images", "embed_image", "get_image_features"),
    "embed_texts": ("encode_text", "encode_texts", "embed_text", "get_text_features", "encode"),
    "caption": ("generate", "generate_caption", "captions", "caption_images", "describe"),
    "classify": ("predict", "zero_shot", "zero_shot_classify", "classify_images", "label"),
    "score": ("similarity", "likelihood", "score_captions", "log_likelihood"),
    "answer": ("vqa", "ask", "answer_question"),
}
"""Method of a predictor -> its names in OpenCLIP, transformers and sentence-transformers."""

_RENAMED = {other: name for name, others in METHODS.items() for other in others}


def missing_method(predictor: object, name: str) -> AttributeError:
    """Return the error of an attribute that a predictor does not have, with the right name."""
    kind = type(predictor)
    message = f"{kind.__module__}.{kind.__qualname__} has no attribute {name!r}"
    public = [known for known in dir(kind) if not known.startswith("_")]
    if _RENAMED.get(name) in public:
        message += f"; use {_RENAMED[name]!r}"
    elif near := get_close_matches(name, public, n=1):
        message += f"; did you mean {near[0]!r}?"
    return AttributeError(message)

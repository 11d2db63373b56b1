"""CLIP's 80 prompt templates, for label captions in pretraining and for prompt ensembling.

Source: Radford et al. 2021 (arXiv 2103.00020), section 3.1.4, and the list published with its code.
38 templates occur with "a" and with "the", and 4 more once; the grammar is the authors'.
"""

_LOOKS = "bad, low resolution, cropped, bright, dark, close-up, black and white, pixelated, "
_LOOKS += "jpeg corrupted, blurry, good"
_THINGS = "hard to see, clean, dirty, cool, large, nice, weird, small"
_MADE_OF = "embroidered, plastic, origami, toy, cartoon, plushie"
_FORMS = "a sculpture, a rendering, graffiti, a tattoo, a drawing, a painting, a doodle, a sketch, "
_FORMS += "a rendition, art, itap, a photo"

_BOTH = (
    *(f"a {look} photo of ARTICLE {{}}." for look in _LOOKS.split(", ")),
    *(f"a photo of ARTICLE {thing} {{}}." for thing in _THINGS.split(", ")),
    *(f"ARTICLE {made_of} {{}}." for made_of in _MADE_OF.split(", ")),
    *(f"{form} of ARTICLE {{}}." for form in _FORMS.split(", ")),
    "ARTICLE {} in a video game.",
)

CLIP_PROMPTS: tuple[str, ...] = (
    *(text.replace("ARTICLE", article) for text in _BOTH for article in ("a", "the")),
    "a photo of many {}.",
    "a photo of one {}.",
    "a photo of my {}.",
    "itap of my {}.",
)
"""All 80 templates, with `{}` for the class name. "itap" is Reddit's abbreviation of "I took a
picture"."""

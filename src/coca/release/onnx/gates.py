"""Gates of an export: the exported files against torch, on images.

Dimensions: N images or texts, E embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from coca.core.errors import ModelError
from coca.core.progress import progress_bar
from coca.predict.inputs import Caption
from coca.predict.onnx_predictor import open_exported
from coca.predict.predictor import Predictor
from coca.predict.torch_predictor import TorchPredictor
from coca.predict.tower import TowerPredictor
from coca.processing.image_file import ImageInput
from coca.release.onnx.tower_export import TEXTS

BATCHES = (1, 3, 8)
"""Batch sizes that are compared."""
MIN_COSINES = {"fp32": 0.9999, "int8": 0.95}
"""Minimum cosine of an embedding to that of torch, by precision."""
RECALL_AT = (1, 5, 10)
"""Numbers of results of the mean recall. Both directions and all three give six decisions an image,
so few changed ranks do not decide alone."""
MAX_RECALL_LOSS = 0.01
"""Maximum loss of the mean recall."""
BEAM_IMAGES = 64
"""Maximum number of images whose captions of beam search are compared; they take the most time."""
MIN_EQUAL_CAPTIONS = {"fp32": 1.0, "int8": 0.95}
"""Minimum fraction of images whose caption has the tokens of torch's caption."""
MAX_PIXEL_DIFFERENCE = 2
"""Maximum difference of resized pixels, in grey levels: Pillow and torch round differently."""


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """Differences of the exported files from torch."""

    images: int
    """Number of images."""
    image_source: str
    """Origin of the images."""
    min_image_cosine: float
    """Lowest cosine of an image's embedding to torch's, for equal pixels."""
    min_text_cosine: float
    """Lowest cosine of a text's embedding to torch's; the texts are the captions of the images."""
    min_file_cosine: float
    """Lowest cosine of an image's embedding to torch's, each with its own preprocessing."""
    max_pixel_difference: int
    """Largest difference of preprocessed pixels, in grey levels."""
    recall: float
    """Mean of recall@1, recall@5 and recall@10 of images by their captions and of captions by their
    images, 0 to 1."""
    torch_recall: float
    """The same with torch."""
    equal_greedy_captions: float
    """Fraction of images with equal captions of greedy decoding."""
    equal_beam_captions: float
    """Fraction of images with equal captions of beam search."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingResult:
    """Differences of exported encoders from torch, of a model without a decoder."""

    images: int
    """Number of images."""
    image_source: str
    """Origin of the images."""
    texts: int
    """Number of texts."""
    min_image_cosine: float
    """Lowest cosine of an image's embedding to torch's, for equal pixels."""
    min_text_cosine: float
    """Lowest cosine of a text's embedding to torch's, with the exported tokenizer."""
    max_difference: float
    """Largest difference of a number of an embedding."""


def measure_embeddings(
    exported: Predictor,
    torch: Predictor,
    images: Sequence[ImageInput],
    *,
    image_source: str,
    texts: Sequence[str] = TEXTS,
) -> EmbeddingResult:
    """Compare the encoders of an exported model with torch, at batch sizes 1, 3 and 8."""
    squares = [torch.prepare_image(image) for image in images]
    expected = torch.embed_prepared(squares), torch.embed_texts(texts)
    cosines: tuple[list[float], list[float]] = ([], [])
    differences: list[float] = []
    for size in BATCHES:
        exported.batch_size = size
        parts = [squares[start : start + size] for start in range(0, len(squares), size)]
        found = np.concatenate([*map(exported.embed_prepared, parts)]), exported.embed_texts(texts)
        for kept, own, other in zip(cosines, found, expected, strict=True):
            kept.append(_min_cosine(own, other))
            differences.append(float(np.abs(own - other).max()))
    return EmbeddingResult(
        images=len(images),
        image_source=image_source,
        texts=len(texts),
        min_image_cosine=min(cosines[0]),
        min_text_cosine=min(cosines[1]),
        max_difference=max(differences),
    )


def measure(
    exported: Path,
    torch: TorchPredictor,
    images: Sequence[ImageInput],
    *,
    image_source: str,
) -> GateResult:
    """Compare an exported folder with torch, at batch sizes 1, 3 and 8."""
    same_pixels = torch
    if not isinstance(torch, TowerPredictor):
        config = torch.processor.image_config.replace(trim=False, reduced=False)
        processor = torch.processor.with_image(config)
        same_pixels = TorchPredictor(torch.model, processor, fingerprint=torch.fingerprint)
    runtime = open_exported(exported, batch_size=max(BATCHES))
    # Resizing to the same size changes nothing, so both read equal pixels.
    seen, own = [], []
    with progress_bar("reading images", len(images)) as bar:
        for image in images:
            seen.append(torch.prepare_image(image).transpose(1, 2, 0))
            own.append(runtime.prepare_image(image).transpose(1, 2, 0))
            bar.advance()
    untrimmed = open_exported(exported, batch_size=max(BATCHES))
    untrimmed.image_settings = replace(untrimmed.image_settings, trim=False, reduced=False)

    # At equal distances, since names in a folder may be sorted by subject.
    some = seen[:: -(-len(seen) // BEAM_IMAGES)]
    greedy = same_pixels.caption(seen, num_beams=1)
    beams = same_pixels.caption(some, num_beams=4)
    # An 8-bit scale is that of a batch, so two copies of one text would differ a little.
    texts, own_text = np.unique([caption.text for caption in greedy], return_inverse=True)
    expected = (
        same_pixels.embed_images(seen),
        same_pixels.embed_texts(texts.tolist()),
    )
    cosines: list[tuple[float, float]] = []
    equal: list[bool] = []
    for size in BATCHES:
        untrimmed.batch_size = size
        found = (
            untrimmed.embed_images(seen),
            untrimmed.embed_texts(texts.tolist()),
        )
        cosines.append((_min_cosine(found[0], expected[0]), _min_cosine(found[1], expected[1])))
        if size < max(BATCHES):
            equal += _equal(untrimmed.caption(seen[: max(BATCHES)], num_beams=1), greedy)
    equal += _equal(untrimmed.caption(seen, num_beams=1), greedy)
    other_beams = untrimmed.caption(some, num_beams=4)
    differences = [np.abs(a.astype(np.int16) - b).max() for a, b in zip(own, seen, strict=True)]
    return GateResult(
        images=len(images),
        image_source=image_source,
        min_image_cosine=min(image for image, _ in cosines),
        min_text_cosine=min(text for _, text in cosines),
        min_file_cosine=_min_cosine(runtime.embed_images(images), expected[0]),
        max_pixel_difference=int(max(differences)),
        recall=mean_recall(found[0], found[1][own_text]),
        torch_recall=mean_recall(expected[0], expected[1][own_text]),
        equal_greedy_captions=float(np.mean(equal)),
        equal_beam_captions=float(np.mean(_equal(other_beams, beams))),
    )


def check(result: GateResult | EmbeddingResult, precision: str) -> None:
    """Check the result against the gates of a precision, `fp32` or `int8`.

    With int8, a captioner is bound by its recall, and an image-text model by its cosines.
    """
    captions = isinstance(result, GateResult)
    needed = -1.0 if captions and precision == "int8" else MIN_COSINES[precision]
    bounds = dict.fromkeys(("min_image_cosine", "min_text_cosine"), needed)
    if captions:
        equal = MIN_EQUAL_CAPTIONS[precision]
        bounds |= dict.fromkeys(("equal_greedy_captions", "equal_beam_captions"), equal)
    # Comparisons with NaN are false.
    faults = [
        f"{name} must be at least {bound:g}, got {value:.6f}"
        for name, bound in bounds.items()
        if not (value := getattr(result, name)) >= bound
    ]
    if isinstance(result, GateResult):
        if (loss := result.torch_recall - result.recall) > MAX_RECALL_LOSS:
            faults.append(f"mean recall must lose at most {MAX_RECALL_LOSS}, got {loss:.4f}")
        if result.max_pixel_difference > MAX_PIXEL_DIFFERENCE:
            faults.append(
                f"max_pixel_difference must be at most {MAX_PIXEL_DIFFERENCE}, "
                f"got {result.max_pixel_difference}"
            )
    if faults:
        texts = "" if isinstance(result, GateResult) else f" and {result.texts} texts"
        raise ModelError(
            f"nothing was written, since the {precision} files differ from torch on "
            f"{result.images} images ({result.image_source}){texts}: {'; '.join(faults)}"
        )


def _min_cosine(found: Float[ndarray, "N E"], expected: Float[ndarray, "N E"]) -> float:
    return float((found.astype(np.float64) * expected).sum(axis=1).min())


def _equal(found: Sequence[Caption], expected: Sequence[Caption]) -> list[bool]:
    """Compare the tokens of captions, as many as were found."""
    pairs = zip(found, expected, strict=False)
    return [one.token_ids == other.token_ids for one, other in pairs]


def mean_recall(images: Float[ndarray, "N E"], texts: Float[ndarray, "N E"]) -> float:
    """Compute the mean recall@1, @5 and @10 in both directions, 0 to 1.

    A result that ties with the right one is not counted before it, so images with equal captions
    count as equal. Equal captions must have equal embeddings.
    """
    similarity = images @ texts.T
    own = similarity.diagonal()
    before = [(similarity > own[:, None] + 1e-6).sum(axis=1)]
    before.append((similarity > own + 1e-6).sum(axis=0))
    return float(np.mean([rank < count for rank in before for count in RECALL_AT]))

"""Gates of an export: the exported files against torch, on images.

Dimensions: N images or texts, E embedding, S side of an image (pixels).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from coca.core.errors import ModelError
from coca.core.progress import progress_bar
from coca.predict.inputs import Caption
from coca.predict.predictor import Predictor
from coca.predict.torch_predictor import TorchPredictor
from coca.predict.tower import TowerPredictor
from coca.processing.image_file import ImageInput
from coca.release.onnx.tower_tokenizer import TEXTS

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
class EmbeddingResult:
    """Differences of exported encoders from torch."""

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


@dataclass(frozen=True, kw_only=True)
class GateResult(EmbeddingResult):
    """Differences of an exported captioner from torch; its texts are the captions of the images."""

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
    expected = _embed(torch, squares), torch.embed_texts(texts)
    cosines: tuple[list[float], list[float]] = ([], [])
    differences: list[float] = []
    for size in BATCHES:
        exported.batch_size = size
        found = _embed(exported, squares), exported.embed_texts(texts)
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


def measure_captions(
    exported: Predictor,
    torch: TorchPredictor,
    images: Sequence[ImageInput],
    *,
    image_source: str,
) -> GateResult:
    """Compare an exported captioner with torch, at batch sizes 1, 3 and 8."""
    same_pixels = torch
    if not isinstance(torch, TowerPredictor):
        config = torch.processor.image_config.replace(trim=False, reduced=False)
        processor = torch.processor.with_image(config)
        same_pixels = TorchPredictor(torch.model, processor, fingerprint=torch.fingerprint)
    # Resizing to the same size changes nothing, so both read equal pixels.
    seen, own = [], []
    with progress_bar("reading images", len(images)) as bar:
        for image in images:
            seen.append(torch.prepare_image(image).transpose(1, 2, 0))
            own.append(exported.prepare_image(image).transpose(1, 2, 0))
            bar.advance()
    of_files = exported.embed_images(images)
    exported.image_settings = replace(exported.image_settings, trim=False, reduced=False)

    # At equal distances, since names in a folder may be sorted by subject.
    some = seen[:: -(-len(seen) // BEAM_IMAGES)]
    greedy = same_pixels.caption(seen, num_beams=1)
    beams = same_pixels.caption(some, num_beams=4)
    equal: list[bool] = []
    for size in BATCHES:
        exported.batch_size = size
        few = seen if size == max(BATCHES) else seen[: max(BATCHES)]
        equal += _equal(exported.caption(few, num_beams=1), greedy)
    other_beams = exported.caption(some, num_beams=4)
    # An 8-bit scale is that of a batch, so two copies of one text would differ a little.
    captions, own_text = np.unique([caption.text for caption in greedy], return_inverse=True)
    texts = captions.tolist()
    compared = measure_embeddings(
        exported, same_pixels, seen, image_source=image_source, texts=texts
    )
    vectors = same_pixels.embed_images(seen)
    differences = [np.abs(a.astype(np.int16) - b).max() for a, b in zip(own, seen, strict=True)]
    return GateResult(
        **vars(compared),
        min_file_cosine=_min_cosine(of_files, vectors),
        max_pixel_difference=int(max(differences)),
        recall=mean_recall(exported.embed_images(seen), exported.embed_texts(texts)[own_text]),
        torch_recall=mean_recall(vectors, same_pixels.embed_texts(texts)[own_text]),
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
        raise ModelError(
            f"nothing was written, since the {precision} files differ from torch on "
            f"{result.images} images ({result.image_source}) and {result.texts} texts: "
            f"{'; '.join(faults)}"
        )


def _embed(
    predictor: Predictor, squares: Sequence[UInt8[ndarray, "3 S S"]]
) -> Float[ndarray, "N E"]:
    starts = range(0, len(squares), predictor.batch_size)
    parts = [squares[start : start + predictor.batch_size] for start in starts]
    return np.concatenate([*map(predictor.embed_prepared, parts)])


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

"""Close the training of `everyday`: fit the class branch and a projection, and sort dimensions.

    python recipes/pretrain/closing_stage.py runs/everyday/half runs/everyday/closed \
        --data runs/everyday-data

Both towers are frozen up to their last layers, so images and texts are embedded once. Then 200
steps fit the class vectors and the image projection. Texts stay as they are, since searches also
compare queries with captions. The scale of the class branch becomes 1. The losses are cross
entropies and KL divergences in nats:

captions    photos of Flickr8k and their captions, English or German (contrastive)
drawings    cosines of emoji with their names and keywords, as they were before the stage
classes     any photo plus the vector of a class against the names of all classes, bare or in
            prompts, and against the nouns above it
nouns       the mass of the classifier below a noun against the softmax over the photos
labelled    one photo of each class against the names of all classes and the nouns

At last an orthogonal rotation sorts the dimensions: the first D numbers of an embedding are its
principal components, so that shorter vectors lose little. No cosine of whole vectors changes. The
text tower gets a projection for it.

Dimensions: N images, P numbers of a pooled image, K classes, M texts, E embedding, B batch, H
nouns.
"""

import argparse
import copy
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from coca.core.errors import ModelError
from coca.data.sources.factory import open_source
from coca.data.sources.source import Source
from coca.data.sources.tar.shards import ShardsConfig
from coca.model.class_coca import BRANCH_POWER, ClassCoCa
from coca.model.layers.transformer import unit
from coca.model.pretrained import build, save_model
from coca.predict.prompts import PROMPTS, fill
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.workflows.training.init_weights import class_texts

sys.path.append(str(Path(__file__).parents[1] / "data"))
from everyday_losses import divergence, noun_loss, noun_texts, read_nouns

STEPS, BATCH, NOUNS = 200, 512, 256
VECTOR_RATE, PROJECTION_RATE = 3e-3, 1e-3
"""Initial learning rates of Adam, which a cosine lowers to 0."""
GERMAN, KEYWORDS, BARE = 0.3, 0.6, 0.5
"""Fractions of the texts that are German captions, keywords of drawings, names without a prompt."""
SURE = 0.3
"""Smallest probability of the class that is added to a photo; it is uniform from there to 1. Other
classes would fill the branch up to length 1; here they are left out."""
CAPTIONS, DRAWINGS, BELOW, MASS, LABELLED = 2.0, 6.0, 3.0, 2.0, 0.5
"""Weights of losses; `BELOW` is that of nouns next to names."""
TYPED = 2.0
"""Weight of nouns in the rotation, where photos and captions have 1."""


@dataclass(frozen=True)
class Images:
    """Pooled images and their texts."""

    pooled: Float[Tensor, "N P"]
    """Input of the image projection."""
    probabilities: Float[Tensor, "N K"]
    texts: Sequence[Sequence[str]]
    """Captions of each image."""
    others: Sequence[Sequence[str]] = ()
    """Captions in a second language or keywords of each image; its captions if it has none."""


@dataclass(frozen=True)
class Things:
    """Names of the classes, and the nouns above them."""

    names: Sequence[Sequence[str]]
    """Names of each class."""
    prompts: Sequence[Sequence[str]]
    """Names of each class in prompts."""
    nouns: Sequence[Sequence[str]]
    """Prompts of each noun, in both languages."""
    below: Float[Tensor, "K H"]
    """1 where a class is below a noun, else 0."""


class TextVectors:
    """Embeddings of texts, computed once for each text."""

    def __init__(self, texts: Sequence[str], predictor: TorchPredictor) -> None:
        """Embed the texts."""
        unique = list(dict.fromkeys(texts))
        self._row = {text: row for row, text in enumerate(unique)}
        self.vectors = torch.from_numpy(predictor.embed_texts(unique))

    def rows(self, texts: Sequence[Sequence[str]]) -> "Choices":
        """Return the rows of the texts of each image or concept, to draw from."""
        return Choices([[self._row[text] for text in own] for own in texts])


class Choices:
    """Rows of the texts of each image or concept."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self._counts = torch.tensor([len(own) for own in rows])
        self._first = self._counts.cumsum(0) - self._counts
        self.all = torch.tensor([row for own in rows for row in own])

    def draw(self, owners: Int[Tensor, " B"], generator: torch.Generator) -> Int[Tensor, " B"]:
        """Draw a text of each owner."""
        counts, first = self._counts[owners], self._first[owners]
        drawn = (torch.rand(len(owners), generator=generator) * counts).long()
        return self.all[first + drawn.minimum(counts - 1)]


def draw_either(
    some: Choices,
    other: Choices,
    owners: Int[Tensor, " B"],
    generator: torch.Generator,
    *,
    fraction: float,
) -> Int[Tensor, " B"]:
    """Draw a text of each owner, from `other` with this probability, 0 to 1, else from `some`."""
    from_other = torch.rand(len(owners), generator=generator) < fraction
    drawn = some.draw(owners, generator), other.draw(owners, generator)
    return torch.where(from_other, drawn[1], drawn[0])


class LastLayers(nn.Module):
    """The layers that are fitted: class vectors and image projection."""

    def __init__(self, model: ClassCoCa) -> None:
        super().__init__()
        assert model.class_branch is not None
        assert isinstance(model.image_projection, nn.Linear)
        self.vectors = nn.Parameter(unit(model.class_branch.vectors.detach().float()))
        self.image = nn.Parameter(model.image_projection.weight.detach().float().clone())

    def tower(self, pooled: Float[Tensor, "B P"]) -> Float[Tensor, "B E"]:
        """Embed pooled images without the class branch."""
        return unit(F.linear(pooled, self.image))

    def images(
        self, pooled: Float[Tensor, "B P"], probabilities: Float[Tensor, "B K"]
    ) -> Float[Tensor, "B E"]:
        """Embed pooled images."""
        return unit(self.tower(pooled) + unit(probabilities**BRANCH_POWER @ self.vectors))


def checked(model: nn.Module) -> ClassCoCa:
    """Return the model if the stage can close it.

    Raises:
        ModelError: It has no class branch, projects texts already, or pools in a cascade.
    """
    if not isinstance(model, ClassCoCa) or model.class_branch is None:
        raise ModelError("the closing stage needs a CoCa model with model.image.class_branch true")
    if model.config.pooler.kind == "cascade" or model.contrastive_pooler is None:
        raise ModelError(
            "the closing stage needs a contrastive pooler that reads the tokens of the encoder; "
            "set model.pooler.kind to none or parallel"
        )
    if not isinstance(model.text_projection, nn.Identity):
        raise ModelError(
            "the closing stage adds a text projection, but this model has one; start from the "
            "model before the stage"
        )
    return model


def read_images(
    source: Source, predictor: TorchPredictor, *, field: str = "", batch_size: int = 32
) -> Images:
    """Run the image tower up to its projection on all images of a source.

    Args:
        source: The images.
        predictor: The model.
        field: Metadata field with further texts of each image.
        batch_size: Images at a time.
    """
    model = checked(predictor.model)
    assert model.contrastive_pooler is not None
    pooled, likely, texts, others = [], [], [], []
    for start in range(0, len(source), batch_size):
        rows = range(start, min(start + batch_size, len(source)))
        samples = [source.read(row) for row in rows]
        with torch.inference_mode():
            encoded = model.encode(predictor.processor.images([it.image for it in samples]))
            pooled.append(model.contrastive_pooler(encoded.tokens)[:, 0])
            assert encoded.probabilities is not None
            likely.append(encoded.probabilities)
        texts += [sample.captions for sample in samples]
        for sample in samples:
            found = [text for it in sample.metadata.get(field, ()) if (text := str(it).strip())]
            others.append(found or sample.captions)
    return Images(torch.cat(pooled), torch.cat(likely), texts, others)


def read_things(names: Sequence[str], hypernyms: Path) -> Things:
    """List the texts of classes and nouns.

    Args:
        names: Names of each class, separated by commas.
        hypernyms: File that `recipes/data/hypernyms.py` wrote.
    """
    nouns = read_nouns(hypernyms)
    below = torch.zeros(len(names), len(nouns))
    for column, noun in enumerate(nouns):
        below[noun["classes"], column] = 1
    bare = [name.split(", ") for name in names]
    filled = [[text for one in own for text in fill(PROMPTS["photo"], one)] for own in bare]
    return Things(
        bare,
        [[*own, *class_texts(name)] for own, name in zip(filled, names, strict=True)],
        [noun_texts(noun["words"], noun["german"]) for noun in nouns],
        below,
    )


def fit(
    layers: LastLayers,
    photos: Images,
    drawings: Images,
    labelled: Images,
    things: Things,
    texts: TextVectors,
    *,
    scale: float,
    seed: int = 0,
    steps: int = STEPS,
) -> Iterator[float]:
    """Fit the last layers in place, and yield the loss of each step in nats.

    Args:
        layers: The layers.
        photos: Photos with captions, and captions in a second language.
        drawings: Drawings with names, and keywords.
        labelled: Photos of single things.
        things: Names and nouns.
        texts: Embeddings of all their texts.
        scale: Factor on cosines, one over the model's temperature.
        seed: Seed of all draws.
        steps: Number of steps.
    """
    generator = torch.Generator().manual_seed(seed)
    captions, second = texts.rows(photos.texts), texts.rows(photos.others)
    titles, keywords = texts.rows(drawings.texts), texts.rows(drawings.others)
    names, prompts = texts.rows(things.names), texts.rows(things.prompts)
    nouns, below = texts.rows(things.nouns), things.below
    classes, every_noun = torch.arange(len(below)), torch.arange(below.shape[1])
    mass = photos.probabilities @ below
    rates = {layers.vectors: VECTOR_RATE, layers.image: PROJECTION_RATE}
    groups = [{"params": [it], "lr": rate} for it, rate in rates.items()]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    with torch.no_grad():
        before = layers.images(drawings.pooled, drawings.probabilities)

    for _ in range(steps):
        rows = torch.randperm(len(mass), generator=generator)[:BATCH]
        chosen = draw_either(captions, second, rows, generator, fraction=GERMAN)
        shown = layers.images(photos.pooled[rows], photos.probabilities[rows])
        logits, own = scale * shown @ texts.vectors[chosen].T, torch.arange(len(rows))
        pairs = F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)
        loss = CAPTIONS * pairs / 2

        drawn = torch.randperm(len(drawings.pooled), generator=generator)[:BATCH]
        chosen = draw_either(titles, keywords, drawn, generator, fraction=KEYWORDS)
        shown = layers.images(drawings.pooled[drawn], drawings.probabilities[drawn])
        found, target = (scale * it @ texts.vectors[chosen].T for it in (shown, before[drawn]))
        both = divergence(found, target) + divergence(found.T, target.T)
        loss = loss + DRAWINGS * both / 2

        chosen = draw_either(prompts, names, classes, generator, fraction=BARE)
        of_names = texts.vectors[chosen]
        of_nouns = texts.vectors[nouns.draw(every_noun, generator)]
        any_photo = torch.randint(len(mass), (len(classes),), generator=generator)
        sure = SURE + (1 - SURE) * torch.rand(len(classes), 1, generator=generator)
        shown = unit(layers.tower(photos.pooled[any_photo]) + sure**BRANCH_POWER * layers.vectors)
        loss = loss + F.cross_entropy(scale * shown @ of_names.T, classes)
        loss = loss + BELOW * noun_loss(scale * shown @ of_nouns.T, below)

        shown = layers.images(labelled.pooled, labelled.probabilities)
        part = F.cross_entropy(scale * shown @ of_names.T, labelled.probabilities)
        part = part + BELOW * noun_loss(scale * shown @ of_nouns.T, labelled.probabilities @ below)
        loss = loss + LABELLED * part

        # The nouns with the largest mass; a small random part breaks ties.
        largest = mass[rows].amax(dim=0) + 1e-3 * torch.rand(below.shape[1], generator=generator)
        top = largest.topk(min(NOUNS, len(largest))).indices
        shown = layers.images(photos.pooled[rows], photos.probabilities[rows])
        loss = loss + MASS * noun_loss(scale * shown @ of_nouns[top].T, mass[rows][:, top])

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield float(loss.detach())


def principal_rotation(
    groups: Sequence[tuple[float, Float[Tensor, "N E"]]],
) -> Float[Tensor, "E E"]:
    """Compute the rotation to the principal components of groups of vectors, largest first.

    Each group has a weight, and counts by its mean square, so that no prefix of another basis has
    longer vectors on average. With covariances, which leave out the means, the first 64 dimensions
    find fewer nouns.
    """
    total = torch.zeros(groups[0][1].shape[1], groups[0][1].shape[1], dtype=torch.float64)
    for weight, vectors in groups:
        total += weight * vectors.double().T @ vectors.double() / len(vectors)
    components = torch.linalg.eigh(total).eigenvectors.flip(dims=(1,)).T
    # The sign of a component is arbitrary; the largest number is positive.
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return (components * largest.sign()).float()


@torch.no_grad()
def closed(model: ClassCoCa, layers: LastLayers, rotation: Float[Tensor, "E E"]) -> ClassCoCa:
    """Return a copy of a model with the fitted layers, rotated."""
    new = build(model.config.replace(project_text=True))
    assert isinstance(new, ClassCoCa)
    state = copy.copy(model.state_dict())
    state["class_branch.vectors"] = layers.vectors @ rotation.T
    state["class_branch.scale"] = torch.ones(())
    state["image_projection.weight"] = rotation @ layers.image
    state["text_projection.weight"] = rotation
    new.load_state_dict(state)
    return new.eval()


def close(model: Path, out: Path, data: Path, *, seed: int) -> dict[str, float]:
    """Write the closed model into a new folder, in half precision.

    Returns:
        The loss of the first and the last step, in nats.
    """
    predictor = load_coca(model, device="cpu", prepack=False)
    before = checked(predictor.model)
    names = before.image_encoder.class_names
    if names is None:
        raise ModelError(f"{model} has classes without names; the closing stage needs ImageNet's")
    shards = {
        name: open_source(ShardsConfig(path=str(data / path)))
        for name, path in {
            "photos": "flickr8k/*.tar",
            "drawings": "emoji/train/*.tar",
            "labelled": "classes/*.tar",
        }.items()
    }
    photos = read_images(shards["photos"], predictor, field="de")
    drawings = read_images(shards["drawings"], predictor, field="keywords")
    labelled = read_images(shards["labelled"], predictor)
    things = read_things(names, data / "hypernyms.json")
    listed = (
        *(photos.texts, photos.others, drawings.texts, drawings.others),
        *(things.names, things.prompts, things.nouns),
    )
    texts = TextVectors([text for some in listed for own in some for text in own], predictor)
    layers = LastLayers(before)
    scale = float(before.logit_scale.detach())
    losses = list(fit(layers, photos, drawings, labelled, things, texts, scale=scale, seed=seed))
    with torch.no_grad():
        groups = [
            (1.0, layers.images(photos.pooled, photos.probabilities)),
            (1.0, texts.vectors[texts.rows(photos.texts).all]),
            (1.0, layers.images(labelled.pooled, labelled.probabilities)),
            (TYPED, texts.vectors[texts.rows(things.nouns).all]),
        ]
    new = closed(before, layers, principal_rotation(groups))
    # Graphs of the model before, and their manifest, would be wrong for the new weights.
    shutil.copytree(model, out, ignore=shutil.ignore_patterns("*.onnx", "manifest.json"))
    save_model(out, new, dtype=torch.float16)
    return {"first": losses[0], "last": losses[-1]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the model that the arguments of the command line describe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="model folder with a class branch")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--data", type=Path, required=True, help="data of make_everyday.py")
    parser.add_argument("--seed", type=int, default=0, help="of the fit")
    given = parser.parse_args(arguments)
    losses = close(given.model, given.out, given.data, seed=given.seed)
    print(f"the loss fell from {losses['first']:.3f} to {losses['last']:.3f} nats; {given.out}")


if __name__ == "__main__":
    main()

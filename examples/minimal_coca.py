"""CoCa in one file of plain PyTorch: model, both losses, training, captions, and search in SQLite.

    python examples/minimal_coca.py                              # drawn shapes, three minutes
    python examples/minimal_coca.py --shards flickr8k --steps 2000 --query "a dog runs on grass"

Source: Yu et al. (Google Research, 2022), arXiv 2205.01917. It needs torch, NumPy and Pillow, and
nothing of this package: read it first, change it, or take parts of it along. Its parameters have
the names of `coca.CoCa`, and the tests compare losses, gradients and captions with it.

    images -> image encoder -> captioning pooler -> contrastive pooler -> image embedding
                                      |
    tokens -> unimodal decoder -> multimodal decoder -> logits of the next tokens
                     |
            state at [CLS] -> text embedding

Shards are tars of images and JSON files: `KEY.webp`, and `KEY.json` with a list `captions`.

Dimensions: B pairs, P patches, Q queries, T, L, S tokens, D, C widths, H heads, E embedding,
V vocabulary, N images of a collection.
"""

import argparse
import io
import json
import math
import random
import re
import sqlite3
import tarfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional as F

PAD, BOS, EOS, CLS, UNKNOWN = range(5)


@dataclass
class Config:
    """Sizes of a model; the default trains on a CPU within minutes. CoCa-Base has 768 features."""

    vocab_size: int
    image_size: int = 64
    patch_size: int = 8
    image_width: int = 128
    image_layers: int = 4
    text_width: int = 128
    unimodal_layers: int = 2
    multimodal_layers: int = 2
    heads: int = 4
    queries: int = 32
    context_length: int = 24
    embed_dim: int = 96
    pooler: str = "cascade"
    """cascade, the paper's choice; parallel: both poolers read the encoder; none: no captioning
    pooler."""
    tie_embeddings: bool = False
    """Use the token embedding as the weights of the vocabulary, as the paper's largest model."""


# The model: parts first, then the whole.


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, *, causal: bool = False) -> Tensor:
    """Compute softmax(Q K' / sqrt(d)) V in each head: (B, L, D), (B, S, D) -> (B, L, D)."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
    if causal:
        later = torch.ones(scores.shape[2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return (scores.softmax(dim=3) @ v).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Self-attention. Keys have no bias: the softmax would cancel it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, *, causal: bool) -> Tensor:
        q, k, v = self.qkv(tokens).chunk(3, dim=2)
        mixed = attention(q + self.query_bias, k, v + self.value_bias, self.heads, causal=causal)
        return self.out(mixed)


class CrossAttention(nn.Module):
    """Attention of text tokens, or of a pooler's queries, to image tokens."""

    def __init__(self, width: int, context_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context_width, 2 * width, bias=False)
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        keys, values = self.key_value(context).chunk(2, dim=2)
        return self.out(attention(self.query(tokens), keys, values + self.value_bias, self.heads))


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(tokens)))


class Block(nn.Module):
    """Pre-norm layer: self-attention, cross-attention to the image if multimodal, then MLP."""

    def __init__(self, width: int, heads: int, *, image_width: int | None = None) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        if image_width is not None:
            self.cross_norm = nn.LayerNorm(width)
            self.cross_attention = CrossAttention(width, image_width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width, 4 * width)

    def forward(self, tokens: Tensor, image: Tensor | None = None, *, causal: bool) -> Tensor:
        tokens = tokens + self.attention(self.attention_norm(tokens), causal=causal)
        if image is not None:
            tokens = tokens + self.cross_attention(self.cross_norm(tokens), image)
        return tokens + self.mlp(self.mlp_norm(tokens))


class ImageEncoder(nn.Module):
    """A Vision Transformer without class token: (B, 3, S, S) -> one token per patch, (B, P, D)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.patch_size, width = config.patch_size, config.image_width
        patches = (config.image_size // config.patch_size) ** 2
        self.patch_embedding = nn.Linear(3 * config.patch_size**2, width)
        self.positions = nn.Parameter(torch.zeros(patches, width))
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.image_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        p = self.patch_size
        # Unfold lists the pixels of a patch by channel, row and column.
        patches = F.unfold(images, kernel_size=p, stride=p).transpose(1, 2)
        tokens = self.patch_embedding(patches) + self.positions
        for block in self.blocks:
            tokens = block(tokens, causal=False)
        return self.norm(tokens)


class AttentionalPooler(nn.Module):
    """One attention layer whose learned queries attend to all tokens: (B, S, D) -> (B, Q, D)."""

    def __init__(self, width: int, heads: int, queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(queries, width))
        self.attention = CrossAttention(width, width, heads)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.norm(self.attention(self.queries.expand(len(tokens), -1, -1), tokens))


class UnimodalDecoder(nn.Module):
    """The lower half of the text decoder, which does not see the image: (B, T) -> (B, T, D)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.text_width
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Parameter(torch.zeros(config.context_length, width))
        self.blocks = nn.ModuleList(
            Block(width, config.heads) for _ in range(config.unimodal_layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.token_embedding(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            states = block(states, causal=True)
        return states


class MultimodalDecoder(nn.Module):
    """The upper half of the text decoder, which attends to the image in each layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.text_width
        self.blocks = nn.ModuleList(
            Block(width, config.heads, image_width=config.image_width)
            for _ in range(config.multimodal_layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, states: Tensor, image: Tensor) -> Tensor:
        for block in self.blocks:
            states = block(states, image, causal=True)
        return self.norm(states)


def projection(width: int, embed_dim: int) -> nn.Module:
    """Return the projection to the shared embedding; none where the widths are equal."""
    return nn.Identity() if width == embed_dim else nn.Linear(width, embed_dim, bias=False)


class CoCa(nn.Module):
    """A Contrastive Captioner."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        image, text, heads = config.image_width, config.text_width, config.heads
        self.image_encoder = ImageEncoder(config)
        if config.pooler != "none":
            self.captioning_pooler = AttentionalPooler(image, heads, config.queries)
        self.contrastive_pooler = AttentionalPooler(image, heads, 1)
        self.unimodal_decoder = UnimodalDecoder(config)
        self.multimodal_decoder = MultimodalDecoder(config)
        self.vocabulary = nn.Linear(text, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.vocabulary.weight = self.unimodal_decoder.token_embedding.weight
        self.image_projection = projection(image, config.embed_dim)
        self.text_projection = projection(text, config.embed_dim)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(0.07)))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize as CLIP does; the paper does not state its initialization."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        text_layers = self.config.unimodal_layers + self.config.multimodal_layers
        for tower, depth in (
            (self.image_encoder, self.config.image_layers),
            (self.unimodal_decoder, text_layers),
            (self.multimodal_decoder, text_layers),
        ):
            for module in tower.modules():
                if isinstance(module, SelfAttention | CrossAttention):
                    module.out.weight /= math.sqrt(2 * depth)
                elif isinstance(module, MLP):
                    module.down.weight /= math.sqrt(2 * depth)
        text = self.unimodal_decoder
        for table in (self.image_encoder.positions, text.positions, text.token_embedding.weight):
            nn.init.normal_(table, std=table.shape[1] ** -0.5)
        for module in self.modules():
            if isinstance(module, AttentionalPooler):
                nn.init.normal_(module.queries)

    def encode_image(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute unit-norm embeddings (B, E), and the tokens that the decoder reads (B, Q, D)."""
        encoded, kind = self.image_encoder(images), self.config.pooler
        tokens = encoded if kind == "none" else self.captioning_pooler(encoded)
        pooled = self.contrastive_pooler(tokens if kind == "cascade" else encoded)[:, 0]
        return F.normalize(self.image_projection(pooled), dim=1), tokens

    def encode_text(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Compute unit-norm embeddings (B, E) from the unimodal states at [CLS]."""
        at_cls = self.unimodal_decoder.norm(states[tokens == CLS])
        return F.normalize(self.text_projection(at_cls), dim=1)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute both embeddings (B, E), and the logits of all next tokens (B, T, V)."""
        image_embedding, image_tokens = self.encode_image(images)
        states = self.unimodal_decoder(tokens)
        logits = self.vocabulary(self.multimodal_decoder(states, image_tokens))
        return image_embedding, self.encode_text(states, tokens), logits

    def losses(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both losses in nats by one forward pass; the paper adds 1 and 2 times of them."""
        image_embedding, text_embedding, logits = self(images, tokens)
        contrastive = contrastive_loss(image_embedding, text_embedding, self.log_scale.exp())
        return contrastive, captioning_loss(logits, tokens)

    @torch.no_grad()
    def greedy(self, images: Tensor) -> list[list[int]]:
        """Caption images by greedy decoding; the ids of each caption, without special tokens."""
        _, image_tokens = self.encode_image(images)
        ids = torch.full((len(images), 1), BOS)
        for _ in range(self.config.context_length - 2):
            states = self.multimodal_decoder(self.unimodal_decoder(ids), image_tokens)
            logits = self.vocabulary(states[:, -1])
            logits[:, [PAD, BOS, CLS]] = -torch.inf
            ids = torch.cat([ids, logits.argmax(dim=1, keepdim=True)], dim=1)
        rows = ids[:, 1:].tolist()
        return [row[: row.index(EOS)] if EOS in row else row[:-1] for row in rows]


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Sum the cross entropies of matching images to captions and captions to images (eq. 2)."""
    similarity = scale * images @ texts.T
    partner = torch.arange(len(similarity), device=similarity.device)
    return F.cross_entropy(similarity, partner) + F.cross_entropy(similarity.T, partner)


def captioning_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Average the cross entropy of w1 .. wn and [EOS] over the tokens of the batch (eq. 3)."""
    targets = tokens[:, 1:]
    is_label = (targets != CLS) & (targets != PAD)
    return F.cross_entropy(logits[:, :-1][is_label], targets[is_label])


# Words and images.


class Tokenizer:
    """Words as ids. A caption is [BOS] w1 .. wn [EOS] [CLS] [PAD] .."""

    def __init__(self, texts: list[str], *, at_least: int) -> None:
        """Keep the words that occur often enough."""
        counts = Counter(word for text in texts for word in self.split(text))
        self.words = sorted(word for word, count in counts.items() if count >= at_least)
        self.ids = {word: number for number, word in enumerate(self.words, UNKNOWN + 1)}
        self.vocab_size = UNKNOWN + 1 + len(self.words)

    @staticmethod
    def split(text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())

    def encode(self, texts: list[str], context_length: int) -> Tensor:
        """Encode captions as ids (B, T), padded to the longest."""
        rows = [[self.ids.get(word, UNKNOWN) for word in self.split(text)] for text in texts]
        rows = [[BOS, *row[: context_length - 3], EOS, CLS] for row in rows]
        longest = max(map(len, rows))
        return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])

    def decode(self, ids: list[int]) -> str:
        return " ".join(self.words[i - UNKNOWN - 1] if i > UNKNOWN else "?" for i in ids)


def to_square(image: Image.Image, side: int) -> np.ndarray:
    """Resize an image to (3, side, side), uint8."""
    resized = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(resized).transpose(2, 0, 1)


def read_shards(folder: str, side: int) -> tuple[list[np.ndarray], list[list[str]]]:
    """Read the images and captions of all tars of a folder whose name starts with `train`."""
    images, captions = [], []
    for shard in sorted(Path(folder).glob("train*.tar")):
        with tarfile.open(shard) as tar:
            files = {member.name: member for member in tar if member.isfile()}
            for name in sorted(files):
                about = f"{name.rpartition('.')[0]}.json"
                if name != about and about in files:
                    content = tar.extractfile(files[name]).read()
                    images.append(to_square(Image.open(io.BytesIO(content)), side))
                    captions.append(json.load(tar.extractfile(files[about]))["captions"])
    return images, captions


def draw_shapes(count: int, side: int) -> tuple[list[np.ndarray], list[list[str]]]:
    """Draw two coloured shapes per image, and describe them: data for a first run."""
    generator, images, captions = random.Random(0), [], []
    colors = ["red", "green", "blue", "yellow", "black", "white"]
    for _ in range(count):
        image = Image.new("RGB", (96, 96), "grey")
        named = []
        for left in (8, 56):
            shape, color = generator.choice(["circle", "square"]), generator.choice(colors)
            top = generator.randrange(8, 56)
            draw = ImageDraw.Draw(image)
            paint = draw.ellipse if shape == "circle" else draw.rectangle
            paint((left, top, left + 32, top + 32), fill=color)
            named.append(f"a {color} {shape}")
        images.append(to_square(image, side))
        captions.append([f"{named[0]} left of {named[1]}", f"{named[0]} and {named[1]}"])
    return images, captions


def as_input(images: np.ndarray) -> Tensor:
    """Scale pixels 0 to 255 to -1 to 1."""
    return torch.from_numpy(images).float() / 127.5 - 1


# Training and search.


def train(
    model: CoCa,
    tokenizer: Tokenizer,
    images: np.ndarray,
    captions: list[list[str]],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float = 1e-3,
) -> list[float]:
    """Train with AdamW, warm-up and cosine decay; return the loss of each step."""
    chosen = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(
        model.parameters(), learning_rate, betas=(0.9, 0.98), weight_decay=0.05
    )
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / warmup) * (1 + math.cos(math.pi * step / steps)) / 2,
    )
    history: list[float] = []
    started = time.perf_counter()
    for step in range(steps):
        rows = chosen.choice(len(images), batch_size, replace=False)
        texts = [captions[row][chosen.integers(len(captions[row]))] for row in rows]
        tokens = tokenizer.encode(texts, model.config.context_length)
        contrastive, captioning = model.losses(as_input(images[rows]), tokens)
        loss = contrastive + 2 * captioning
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.log_scale.clamp_(0, math.log(100))  # a temperature of at least 0.01
        history.append(loss.item())
        if step % max(1, steps // 10) == 0 or step == steps - 1:
            print(
                f"step {step:5d}  loss {loss:6.3f}  contrastive {contrastive:6.3f}  "
                f"captioning {captioning:6.3f}  {time.perf_counter() - started:5.0f} s"
            )
    return history


@torch.no_grad()
def fill(path: str, model: CoCa, tokenizer: Tokenizer, images: np.ndarray) -> None:
    """Write each image's embedding and generated caption into a SQLite file."""
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE IF EXISTS images")
        database.execute("CREATE TABLE images (id INTEGER PRIMARY KEY, caption TEXT, vector BLOB)")
        for first in range(0, len(images), 64):
            batch = as_input(images[first : first + 64])
            vectors, _ = model.encode_image(batch)
            texts = map(tokenizer.decode, model.greedy(batch))
            rows = zip(range(first, first + len(batch)), texts, vectors.numpy(), strict=True)
            database.executemany(
                "INSERT INTO images VALUES (?, ?, ?)",
                [(number, text, vector.tobytes()) for number, text, vector in rows],
            )
    database.close()


@torch.no_grad()
def search(
    path: str, model: CoCa, tokenizer: Tokenizer, query: str, limit: int = 5
) -> list[tuple[float, int, str]]:
    """Return the images nearest to a text: cosine, id and caption, best first."""
    tokens = tokenizer.encode([query], model.config.context_length)
    vector = model.encode_text(model.unimodal_decoder(tokens), tokens)[0].numpy()
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT id, caption, vector FROM images").fetchall()
    database.close()
    matrix = np.frombuffer(b"".join(row[2] for row in rows), np.float32).reshape(len(rows), -1)
    cosines = matrix @ vector
    best = np.argsort(-cosines, kind="stable")[:limit]
    return [(float(cosines[row]), rows[row][0], rows[row][1]) for row in best]


def main(arguments: list[str] | None = None) -> list[float]:
    """Train, caption an image, and search; return the loss of each step."""
    parser = argparse.ArgumentParser(description="CoCa in one file of plain PyTorch")
    parser.add_argument("--shards", help="folder of train*.tar; default: drawn shapes")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--query", default="a red circle left of a blue square")
    parser.add_argument("--database", default="minimal_coca.db", help="SQLite file to write")
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    side = Config.image_size
    listed, captions = read_shards(given.shards, side) if given.shards else draw_shapes(2048, side)
    images = np.stack(listed)
    tokenizer = Tokenizer([text for texts in captions for text in texts], at_least=5)
    model = CoCa(Config(tokenizer.vocab_size))
    # The last images are not trained on: they are captioned and searched.
    held_out = min(500, len(images) // 8)
    print(f"{len(images) - held_out} images to train on, {tokenizer.vocab_size} tokens")
    history = train(
        model,
        tokenizer,
        images[:-held_out],
        captions[:-held_out],
        steps=given.steps,
        batch_size=given.batch_size,
    )
    model.eval()
    fill(given.database, model, tokenizer, images[-held_out:])
    print(
        f"caption of image 0: {tokenizer.decode(model.greedy(as_input(images[-held_out:][:1]))[0])}"
    )
    print(f"  a person wrote: {captions[-held_out][0]}")
    print(f"search: {given.query}")
    for cosine, number, _ in search(given.database, model, tokenizer, given.query):
        print(f"  {cosine:.3f}  image {number}: {captions[len(images) - held_out + number][0]}")
    return history


if __name__ == "__main__":
    main()

"""Memory, traffic and time of a training step on many GPUs, as formulas.

`Plan` has the formulas; `count` has FLOPs and activations of a micro-batch, as torch counts them on
tensors without data. `many_ranks.py` prints the prediction and checks it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig
from coca.model.layers import transformer
from coca.model.layers.packing import Packing
from coca.model.layers.transformer import Block, CrossAttention, CrossBlock
from coca.model.losses.captioning_loss import captioning_loss
from coca.model.losses.contrastive_loss import BLOCK_ROWS
from coca.train.objective import LossConfig
from coca.train.optim.optimizer import MIN_FACTORED_SIZE

FP32, BF16 = 4, 2
"""Bytes of a number."""
Kind: TypeAlias = Literal["ddp", "fsdp"]
KINDS: tuple[Kind, ...] = ("ddp", "fsdp")

# What torch counts.

Line = tuple[float, float]
"""A part that each micro-batch has once, and a part of each pair."""


@dataclass(frozen=True)
class Counts:
    """FLOPs and saved bytes of a micro-batch with captions that fill the context."""

    encoders: Line
    """FLOPs of the forward pass of both encoders and the poolers."""
    step: Line
    """FLOPs of the forward and backward pass, without the contrastive loss."""
    kept: Line
    """Bytes that autograd keeps for the backward pass, parameters excluded."""


def flop_counter() -> FlopCounterMode:
    """Count FLOPs, also of products in place and of the CPU's fused attention, unlike torch.

    Attention counts as its matrix products, twice as many in the backward pass; those that a fused
    kernel repeats there are not counted, as is usual for utilization.
    """
    aten = torch.ops.aten

    def product_flops(_: torch.Size, left: torch.Size, right: torch.Size, **__: object) -> int:
        return 2 * math.prod(left) * right[-1]

    def forward_flops(q: torch.Size, k: torch.Size, v: torch.Size, *_: object, **__: object) -> int:
        return sdpa_flop_count(q, k, v)

    def backward_flops(_: object, *inputs: torch.Size, **__: object) -> int:
        return 2 * sdpa_flop_count(*inputs[:3])

    mapping = {
        aten.addmm_: product_flops,
        aten.baddbmm_: product_flops,
        aten._scaled_dot_product_flash_attention_for_cpu: forward_flops,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward_flops,
    }
    return FlopCounterMode(display=False, custom_mapping=mapping)


@cache
def count(config: CoCaConfig, *, half: bool) -> Counts:
    """Count a micro-batch on tensors without data; linear in the pairs, so two sizes suffice.

    Args:
        config: The model.
        half: Under autocast in bf16, with the fused attention of accelerators.
    """

    def attend(
        q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)

    with FakeTensorMode(), mock.patch.object(transformer, "attend", attend):
        model = CoCa(config)
        one, two = (_counted(model, pairs, half) for pairs in (1, 2))
    return Counts(*((2 * a - b, b - a) for a, b in zip(one, two, strict=True)))


@contextmanager
def kept_tensors(model: nn.Module) -> Iterator[dict[int, int]]:
    """Collect the bytes of each storage that autograd keeps, parameters excluded."""
    known = {it.untyped_storage()._cdata for it in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def _counted(model: CoCa, pairs: int, half: bool) -> tuple[float, float, float]:
    with flop_counter() as counter:
        with torch.autocast("cpu", torch.bfloat16, enabled=half), kept_tensors(model) as kept:
            stages = _stages(model, pairs)
            embedding = next(stages)
            encoders = counter.get_total_flops()
            loss = next(stages)
        (embedding.sum() + loss).backward()
    return encoders, counter.get_total_flops(), sum(kept.values())


def _stages(model: CoCa, pairs: int) -> Iterator[Tensor]:
    """Run the model on full captions; masks, which need data, would select all rows of these."""
    side, length = model.config.image.image_size, model.config.text.context_length
    tokens = torch.empty(pairs, length, dtype=torch.long)
    packing = Packing.padded(pairs, length, tokens.device)
    encoded = model.image_encoder(torch.empty(pairs, 3, side, side))
    pooled, image_tokens = model._pool(encoded, embedding=True, reading=True)
    states = model.unimodal_decoder(tokens, packing=packing)
    assert pooled is not None
    assert image_tokens is not None
    yield model._embed_image(pooled, None) + model._embed_text(states, tokens, packing)
    decoded, _ = model._decode(states, image_tokens, packing)
    weight = torch.empty(())
    yield captioning_loss(
        decoded, tokens[:, 2:].flatten(), model.vocabulary_weight, token_weight=weight
    )


# The formulas.


@dataclass(frozen=True)
class Group:
    """Parameters that FSDP gathers together."""

    shapes: tuple[torch.Size, ...]
    is_block: bool = True
    """False for the outermost group, which is gathered in fp32."""
    is_first: bool = True
    """Whether the first pass of the gradient cache runs it."""

    def whole(self, ranks: int) -> int:
        """Count its numbers with the padding of FSDP: it splits the first axis into equal parts."""
        return ranks * sum(-(-it[0] // ranks) * math.prod(it[1:]) for it in self.shapes)


def groups_of(model: CoCa) -> list[Group]:
    """List the groups of `ParallelModel`: cross-attentions, blocks, then all that is left."""
    found, taken = [], set()
    blocks = [
        part
        for inner in (CrossAttention, Block | CrossBlock, CoCa)
        for name, part in model.named_modules()
        if isinstance(part, inner) and "pooler" not in name
    ]
    decoder = set(model.multimodal_decoder.modules())
    for part in blocks:
        own = [it for it in part.parameters() if it.ndim and it not in taken]
        taken.update(own)
        shapes = tuple(it.shape for it in own)
        found.append(Group(shapes, part is not model, part not in decoder))
    return found


def groups(config: CoCaConfig) -> list[Group]:
    with torch.device("meta"):
        return groups_of(CoCa(config))


@dataclass(frozen=True)
class Hardware:
    """Rates of one GPU; bytes and FLOP a second."""

    peak: float
    fp32_peak: float
    utilization: float
    node: int
    """GPUs of a node."""
    nvlink: float
    """Bandwidth within a node, of a GPU in one direction."""
    network: float
    """Bandwidth between nodes, of a GPU in one direction."""

    def bandwidth(self, ranks: int) -> float:
        """Return the rate at which each rank sends in a ring.

        A ring over all ranks enters and leaves each node once. So the network adapters of a node
        together carry what one of its GPUs sends, which NCCL does by as many rings as adapters.
        """
        return self.nvlink if ranks <= self.node else min(self.nvlink, self.node * self.network)


@dataclass(frozen=True)
class Plan:
    """A step of one model on some ranks. N ranks, B pairs of each, k micro-batches, E embedding."""

    config: CoCaConfig
    kind: Kind
    ranks: int
    pairs: int
    """Pairs of a rank (B)."""
    micro_batch: int | None
    half: bool = True
    """bf16 on an accelerator; False: fp32 on a CPU, where gloo reduces all gradients to all ranks
    and then drops those of the others, so that reduce-scatter sends as much as all-reduce."""

    @property
    def passes(self) -> int:
        """Micro-batches (k); 1 if all pairs of the rank run at once, without gradient cache."""
        micro = self.micro_batch or self.pairs
        return -(-self.pairs // micro)

    def flops(self) -> tuple[float, float]:
        """Count the FLOPs of a rank: of the model, and of the similarities, which are in fp32.

        Each micro-batch runs forward and backward; with k > 1 both encoders run forward once more.
        Similarities of B images to N B captions: 2 N B^2 E each for the values, and for the
        gradients of both sides; the values twice if they are more than one block of rows.
        """
        counts = count(self.config, half=self.half)
        lines = [counts.step, *([counts.encoders] if self.passes > 1 else [])]
        model = sum(once * self.passes + each * self.pairs for once, each in lines)
        products = 3 if self.pairs <= BLOCK_ROWS else 4
        return model, products * 2 * self.ranks * self.pairs**2 * self.config.embed_dim

    def sent(self) -> dict[str, float]:
        """Compute the bytes that a rank sends in a step.

        In a ring, a rank sends (N - 1) / N of the whole for all-gather or reduce-scatter, and twice
        as much for all-reduce, which is both.

        DDP: one all-reduce of the fp32 gradients, after the last micro-batch.
        FSDP, for each micro-batch: each block is gathered forward and again backward, and for k > 1
        once more in the first pass, without the multimodal decoder. The outermost group stays
        gathered from its forward to its backward pass, and from the first pass, which has none, to
        the second: k times in all. Gradients in fp32 are scattered after each micro-batch.
        Loss: the fp32 captions are gathered and their gradients scattered; the normalizers of the
        columns are reduced twice, by maximum and by sum.
        """
        share = (self.ranks - 1) / self.ranks
        scatter = share * (1 if self.half else 2)
        columns = self.ranks * self.pairs
        captions = columns * self.config.embed_dim * FP32
        loss = (share + scatter) * captions + 4 * share * columns * FP32
        parts = groups(self.config)
        if self.kind == "ddp":
            gradients = 2 * share * FP32 * sum(part.whole(1) for part in parts)
            return {"weights": 0.0, "gradients": gradients, "loss": loss}
        weights = 0.0
        for part in parts:
            times = 2 if part.is_block else 1
            times += part.is_block and part.is_first and self.passes > 1
            weights += times * self._gathered(part)
        gradients = scatter * self.passes * FP32 * sum(part.whole(self.ranks) for part in parts)
        return {"weights": share * self.passes * weights, "gradients": gradients, "loss": loss}

    def state(self) -> dict[str, float]:
        """Compute the bytes of weights, gradients and optimizer that a rank keeps between steps.

        Adafactor has momentum in bf16 and, of a matrix, the mean squares of its rows and columns,
        which FSDP does not split; of other tensors a mean square of each number.
        """
        over = self.ranks if self.kind == "fsdp" else 1
        parts = groups(self.config)
        numbers = sum(part.whole(over) for part in parts) / over
        optimizer = BF16 * numbers
        for shape in (shape for part in parts for shape in part.shapes):
            factored = len(shape) > 1 and sorted(shape)[-2] >= MIN_FACTORED_SIZE
            own = -(-shape[0] // over) * math.prod(shape[1:])
            optimizer += FP32 * (sum(shape) if factored else own)
        return {"weights": FP32 * numbers, "gradients": FP32 * numbers, "optimizer": optimizer}

    def memory(self) -> dict[str, float]:
        """Compute the peak memory of a rank, bytes, as if all parts were at their peak at once.

        Copies: with DDP the buckets of gradients, and the bf16 weights that autocast keeps. With
        FSDP the outermost group with its gradient, and of two blocks (one is gathered while
        another runs) the weights and gradients, and the gradients that are being reduced.
        Activations: what autograd keeps of a micro-batch, and its images in fp32.
        Losses: see `loss_bytes`; logits and gradient of a chunk of tokens, and the vocabulary in
        bf16 with its fp32 gradient.
        """
        counts, text = count(self.config, half=self.half), self.config.text
        micro = min(self.micro_batch or self.pairs, self.pairs)
        parts = groups(self.config)
        if self.kind == "ddp":
            copies = FP32 * sum(part.whole(1) for part in parts) + counts.kept[0]
        else:
            outer = next(part for part in parts if not part.is_block)
            sizes = sorted(part.whole(self.ranks) for part in parts if part.is_block)
            copies = 2 * self._gathered(outer)
            copies += (4 * (BF16 if self.half else FP32) + FP32) * sizes[-1]
        images = 3 * self.config.image.image_size**2 * FP32
        chunk = LossConfig().caption_chunk
        captions = text.vocab_size * (chunk * (FP32 + BF16) + text.width * (BF16 + FP32))
        return {
            "state": sum(self.state().values()),
            "copies": copies,
            "activations": micro * (counts.kept[1] + images),
            "losses": loss_bytes(self.ranks, self.pairs, self.config.embed_dim) + captions,
        }

    def seconds(self, hardware: Hardware) -> tuple[float, float]:
        """Compute the time of a step if traffic hides behind arithmetic entirely, and not at all.

        FLOPs / (peak x utilization), and bytes sent / bandwidth.
        """
        model, similarities = self.flops()
        busy = model / hardware.peak + similarities / hardware.fp32_peak
        busy /= hardware.utilization
        network = sum(self.sent().values()) / hardware.bandwidth(self.ranks)
        return max(busy, network), busy + network

    def _gathered(self, part: Group) -> float:
        return part.whole(self.ranks) * (BF16 if self.half and part.is_block else FP32)


def loss_bytes(ranks: int, pairs: int, width: int) -> float:
    """Compute the memory that the contrastive loss alone adds on a rank, bytes.

    Captions of all ranks and their gradient; besides, either two blocks of similarities, or, while
    gradients are scattered, one block and a contiguous copy for the collective. Then the gradients
    of this rank's images and captions.
    """
    columns, rows = ranks * pairs, min(pairs, BLOCK_ROWS)
    besides = max(2 * rows, rows + width)
    return FP32 * (2 * columns * width + columns * besides + 2 * pairs * width)

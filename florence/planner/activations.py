"""Bytes that autograd keeps from the forward to the backward pass, derived from the towers' code.

Each block is one :class:`Unit`. The backward pass visits units last to first and frees the bytes of
each, so its peak is the largest sum of what earlier units keep and the visited one works with.
A compiled model keeps less.

N tokens, P tokens padded to windows, C channels, h heads of d channels, A tokens per window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from florence.config import Activation, ActivationCheckpointing, Architecture, Attention, Precision
from florence.planner.sizes import ImageStage, image_stages

FP32 = 4
INT64 = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """What one part of the model keeps for its backward pass, and what that pass needs beside it.

    ``kept`` and ``working`` are bytes per sample.
    """

    kept: float
    working: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Numerics:
    """Bytes per element where formats differ, and the kernel of window attention.

    ``product``: inputs of matrix products. ``residual``: the image tower's residual stream.
    ``scores``: a softmax's output with the copy its product needs, where scores are stored at all.
    ``fused``: window attention runs in CUDA's fused kernel, which stores no scores.
    ``decomposed``: it runs in sdpa's fallback for the CPU, which scales queries and keys apart.
    """

    product: int
    residual: int
    scores: int
    fused: bool
    decomposed: bool


def numerics(precision: Precision, attention: Attention, *, cuda: bool) -> Numerics:
    """How a precision and an attention implementation are computed on a kind of device.

    CUDA's autocast keeps norms, softmax and so the residual stream in fp32; the CPU's does not.
    """
    half = precision is not Precision.FP32
    sdpa = attention is Attention.SDPA or (attention is Attention.AUTO and cuda)
    if not half:
        product, residual, scores = FP32, FP32, FP32
    elif cuda:
        product, residual, scores = 2, FP32, FP32 + 2
    else:
        product, residual, scores = 2, 2, 2
    return Numerics(
        product=product,
        residual=residual,
        scores=FP32 if sdpa and not cuda else scores,
        fused=sdpa and cuda,
        decomposed=sdpa and not cuda,
    )


def kept_bytes(units: Sequence[Unit]) -> float:
    """Bytes per sample that the forward pass leaves behind."""
    return sum(unit.kept for unit in units)


def peak_bytes(units: Sequence[Unit]) -> float:
    """Highest bytes per sample while the backward pass runs through the units, last to first."""
    kept = accumulate(unit.kept for unit in units)
    return max(below + unit.working for below, unit in zip(kept, units, strict=True))


def image_units(
    architecture: Architecture,
    *,
    resolution: int,
    window: int | None,
    checkpointing: ActivationCheckpointing,
    numbers: Numerics,
) -> list[Unit]:
    """The image tower's units in the order of its forward pass; the images are not counted."""
    return tower_units(
        architecture,
        image_stages(architecture.image, resolution, window),
        values=3 * resolution**2,
        checkpointing=checkpointing,
        numbers=numbers,
    )


def tower_units(
    architecture: Architecture,
    stages: Sequence[ImageStage],
    *,
    values: int,
    checkpointing: ActivationCheckpointing,
    numbers: Numerics,
) -> list[Unit]:
    """The units of a tower with these stages, whose samples have so many ``values``."""
    units: list[Unit] = []
    ratio = architecture.image.mlp_ratio
    # Bytes of the map that an embedding's convolution reads; of the images, only autocast's copy.
    previous = float(values) * numbers.product if numbers.product != FP32 else 0.0
    for stage in stages:
        units.append(_embedding_unit(stage, previous * stage.input_copies, numbers))
        for number in range(stage.depth):
            shifted = bool(number % 2) and stage.has_shifts
            units.append(_swin_unit(stage, ratio, shifted, checkpointing, numbers))
        previous = stage.tokens * stage.channels * numbers.product
    last = stage.tokens * (stage.channels * numbers.residual + 2 * FP32)
    pooled = stage.channels * numbers.product
    units.append(Unit(kept=last + pooled + _normalise(architecture.embed_dim), working=last))
    return units


def text_units(
    architecture: Architecture,
    *,
    tokens: int,
    checkpointing: ActivationCheckpointing,
    numbers: Numerics,
) -> list[Unit]:
    """The text tower's units; any checkpointing recomputes its blocks whole."""
    text = architecture.text
    n, w, f = tokens, text.width, text.hidden
    activation = 2 if text.activation is Activation.GELU else 4
    norm = n * (w * FP32 + 2 * FP32)
    attention = n * (5 * w * numbers.product + text.heads * FP32)
    mlp = n * (w + activation * f) * numbers.product
    saved = 2 * norm + attention + mlp
    gradients = n * (f * numbers.product + 2 * w * FP32)
    if checkpointing is ActivationCheckpointing.NONE:
        block = Unit(kept=saved, working=gradients)
    else:
        block = Unit(kept=n * w * FP32, working=saved + gradients - n * w * FP32)
    end = w * FP32 + 3 * FP32 + w * numbers.product + _normalise(architecture.embed_dim)
    return [
        Unit(kept=n * INT64, working=n * w * FP32),
        *[block] * text.layers,
        Unit(kept=end + 2 * INT64, working=n * w * FP32),
    ]


def _embedding_unit(stage: ImageStage, previous: float, numbers: Numerics) -> Unit:
    """The map before it, read by the convolution, and the input of its norm with the statistics."""
    out = stage.tokens * stage.channels * numbers.residual
    return Unit(kept=previous + out + 2 * stage.tokens * FP32, working=previous + out)


def _swin_unit(
    stage: ImageStage,
    ratio: int,
    shifted: bool,
    checkpointing: ActivationCheckpointing,
    numbers: Numerics,
) -> Unit:
    tokens, channels = stage.tokens, stage.channels
    stream = tokens * channels * numbers.residual
    norm = stream + 2 * tokens * FP32
    attention = norm + _attention_bytes(stage, shifted, numbers)
    mlp = norm + tokens * channels * (1 + 2 * ratio) * numbers.product
    # The MLP comes first: one gradient of its hidden layer at a time, and those of the stream.
    # By the time of the attention, what the MLP kept is freed.
    mlp_gradients = 2 * stream + ratio * tokens * channels * numbers.product
    scores = stage.heads * stage.padded_tokens * stage.area
    score_bytes = numbers.product if numbers.fused else FP32
    attention_gradients = 2 * stream + 2 * scores * score_bytes
    if checkpointing is ActivationCheckpointing.NONE:
        return Unit(kept=attention + mlp, working=max(mlp_gradients, attention_gradients - mlp))
    if checkpointing is ActivationCheckpointing.SELECTIVE:
        recomputed = attention - stream + attention_gradients - mlp
        return Unit(kept=stream + mlp, working=max(mlp_gradients, recomputed))
    recomputed = attention + mlp - stream
    return Unit(kept=stream, working=recomputed + max(mlp_gradients, attention_gradients - mlp))


def _attention_bytes(stage: ImageStage, shifted: bool, numbers: Numerics) -> float:
    """Inputs of the two projections, and what the attention between them keeps."""
    matrix = stage.padded_tokens * stage.channels
    area = stage.area
    scores = stage.heads * stage.padded_tokens * area
    ends = 2 * matrix * numbers.product
    if numbers.fused:
        # q, k, v; the output is the projection's input, but for a copy where windows are heads.
        # The kernel pads the log-sum-exp of each row of scores to 32.
        rows = stage.heads * stage.padded_tokens / area * (-(-area // 32) * 32)
        return ends + (3 + shifted) * matrix * numbers.product + rows * FP32
    if numbers.decomposed:
        # Scaled q, scaled k, v; where windows are heads, v is a part of the copy of all three.
        parts = 5 if shifted and numbers.product == FP32 else 3
        return ends + parts * matrix * FP32 + scores * FP32
    # The copy of q, k and v, the scaled q, and the softmax.
    return ends + 4 * matrix * numbers.product + scores * numbers.scores


def _normalise(embed_dim: int) -> float:
    """A projection's output in fp32, its norm, and the clamped norm spread over the row."""
    return embed_dim * FP32 + 3 * FP32

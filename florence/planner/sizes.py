"""Parameters and floating-point operations of a two-tower model, exact, from its sizes alone.

A multiply-accumulate (MAC) is two FLOPs; a training step needs three forward passes' worth, so
6 FLOPs per forward MAC: every matrix product has two of its own size in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from florence.config import ActivationCheckpointing, Architecture, Embedding, ImageTower
from florence.config.base import Settings, setting

TRAINING_FLOPS_PER_MAC = 6


class TowerCounts(Settings):
    """A quantity of each tower and of the whole model."""

    image: int = setting(description="the image tower with its projection")
    text: int = setting(description="the text tower with its projection")
    head: int = setting(0, description="what a task adds to the towers")
    total: int = setting(description="the whole model")


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageStage:
    """One of the image tower's four stages, at a resolution.

    ``side`` is the side of its square map, ``window`` that of its attention windows, ``padded``
    the map's side after padding to whole windows.
    """

    index: int
    in_channels: int
    channels: int
    depth: int
    heads: int
    side: int
    window: int
    padded: int
    kernel: int

    @property
    def tokens(self) -> int:
        """Tokens of the map."""
        return self.side**2

    @property
    def padded_tokens(self) -> int:
        """Tokens of the map padded to whole windows."""
        return self.padded**2

    @property
    def area(self) -> int:
        """Tokens of one window."""
        return self.window**2

    @property
    def is_tiled(self) -> bool:
        """Whether windows tile the map without padding."""
        return self.padded == self.side

    @property
    def has_shifts(self) -> bool:
        """Whether every second block shifts its windows."""
        return self.side > self.window

    @property
    def input_copies(self) -> float:
        """How often the map before it is kept for its embedding's convolution to read."""
        return 1.0


def image_stages(
    image: ImageTower, resolution: int, window: int | None = None
) -> tuple[ImageStage, ...]:
    """The four stages for square images of ``resolution`` pixels, with ``window`` where given."""
    stages = []
    side, in_channels = resolution, 3
    for index in range(4):
        channels = image.width << index
        side = _embedded_side(side, index, image.embedding)
        fitted = min(window or image.window, side)
        stages.append(
            ImageStage(
                index=index,
                in_channels=in_channels,
                channels=channels,
                depth=image.depths[index],
                heads=image.heads[index],
                side=side,
                window=fitted,
                padded=-(-side // fitted) * fitted,
                kernel=_kernel(index, image.embedding),
            )
        )
        in_channels = channels
    return tuple(stages)


def parameters(architecture: Architecture, *, window: int | None = None) -> TowerCounts:
    """Parameters of each tower; the total has one more, the temperature."""
    image = _image_parameters(architecture, window)
    text = _text_parameters(architecture)
    return TowerCounts(image=image, text=text, total=image + text + 1)


def forward_macs(
    architecture: Architecture,
    *,
    resolution: int,
    window: int | None = None,
    tokens: int | None = None,
) -> TowerCounts:
    """Multiply-accumulates of the matrix products and convolutions of one sample's forward pass.

    Args:
        architecture: the model.
        resolution: side of the square images in pixels.
        window: side of the attention windows; the model's own when left out.
        tokens: length of the texts; the whole context when left out.
    """
    image = _image_macs(architecture, resolution, window)
    text = _text_macs(architecture, tokens or architecture.text.context)
    return TowerCounts(image=image, text=text, total=image + text)


def training_flops(
    architecture: Architecture,
    *,
    resolution: int,
    window: int | None = None,
    tokens: int | None = None,
) -> TowerCounts:
    """FLOPs of one sample's forward and backward pass; recomputation is not counted."""
    macs = forward_macs(architecture, resolution=resolution, window=window, tokens=tokens)
    image, text = TRAINING_FLOPS_PER_MAC * macs.image, TRAINING_FLOPS_PER_MAC * macs.text
    return TowerCounts(image=image, text=text, total=image + text)


def recomputed_macs(
    architecture: Architecture,
    checkpointing: ActivationCheckpointing,
    *,
    resolution: int,
    window: int | None = None,
) -> int:
    """Forward MACs of a sample that the backward pass repeats to save memory.

    A repetition stops at the last tensor it needs, so each one's last product is left out: the
    attention's projection, or the MLP's second layer.
    """
    if checkpointing is ActivationCheckpointing.NONE:
        return 0
    text = architecture.text
    total = _text_macs(architecture, text.context) - text.width * architecture.embed_dim
    total -= text.layers * text.context * text.width * text.hidden
    return total + image_recomputed_macs(
        architecture, checkpointing, resolution=resolution, window=window
    )


def image_recomputed_macs(
    architecture: Architecture,
    checkpointing: ActivationCheckpointing,
    *,
    resolution: int,
    window: int | None = None,
) -> int:
    """The image tower's part of :func:`recomputed_macs`."""
    stages = image_stages(architecture.image, resolution, window)
    return blocks_recomputed_macs(stages, architecture.image.mlp_ratio, checkpointing)


def blocks_recomputed_macs(
    stages: Sequence[ImageStage], ratio: int, checkpointing: ActivationCheckpointing
) -> int:
    """The same of the blocks of some stages, with MLPs ``ratio`` times as wide as their maps."""
    if checkpointing is ActivationCheckpointing.NONE:
        return 0
    total = 0
    for stage in stages:
        square = stage.channels**2
        if checkpointing is ActivationCheckpointing.SELECTIVE:
            # Where the map is padded, its tokens are put back in order after the projection.
            last = stage.tokens * square if stage.is_tiled else 0
            total += stage.depth * (attention_macs(stage) - last)
        else:
            first_layer = stage.tokens * ratio * square
            total += stage.depth * (attention_macs(stage) + first_layer)
    return total


def _kernel(index: int, embedding: Embedding) -> int:
    if embedding is Embedding.SWIN:
        return 4 if index == 0 else 2
    return 7 if index == 0 else 3


def _embedded_side(side: int, index: int, embedding: Embedding) -> int:
    """Side of the map after a stage's embedding: kernels 7, 3, 3, 3 with strides 4, 2, 2, 2."""
    stride = 4 if index == 0 else 2
    if embedding is Embedding.SWIN:
        return -(-side // stride)
    kernel, padding = (7, 2) if index == 0 else (3, 1)
    return (side + 2 * padding - kernel) // stride + 1


def _image_parameters(architecture: Architecture, window: int | None) -> int:
    image = architecture.image
    table = (2 * (window or image.window) - 1) ** 2
    total, in_channels = 0, 3
    for index, (depth, heads) in enumerate(zip(image.depths, image.heads, strict=True)):
        c, k = image.width << index, _kernel(index, image.embedding)
        total += k * k * in_channels * c  # the convolution, or the reduction of patch merging
        if image.embedding is Embedding.SWIN and index:
            total += 2 * 4 * in_channels  # its norm comes before; no bias
        else:
            total += c + 2 * c
        r = image.mlp_ratio
        total += depth * ((4 + 2 * r) * c * c + (9 + r) * c + table * heads)
        in_channels = c
    return total + 2 * in_channels + in_channels * architecture.embed_dim


def _text_parameters(architecture: Architecture) -> int:
    text = architecture.text
    w, f = text.width, text.hidden
    layer = 4 * w * w + 2 * w * f + 9 * w + f
    embeddings = (text.vocabulary + text.context) * w
    return text.layers * layer + embeddings + 2 * w + w * architecture.embed_dim


def _image_macs(architecture: Architecture, resolution: int, window: int | None) -> int:
    total = 8 * architecture.image.width * architecture.embed_dim
    for stage in image_stages(architecture.image, resolution, window):
        total += stage.tokens * stage.kernel**2 * stage.in_channels * stage.channels
        block = attention_macs(stage) + mlp_macs(stage, architecture.image.mlp_ratio)
        total += stage.depth * block
    return total


def attention_macs(stage: ImageStage) -> int:
    """Of one block's attention."""
    c = stage.channels
    return stage.padded_tokens * (4 * c * c + 2 * stage.area * c)


def mlp_macs(stage: ImageStage, ratio: int) -> int:
    """Of one block's MLP."""
    return stage.tokens * 2 * ratio * stage.channels**2


def _text_macs(architecture: Architecture, tokens: int) -> int:
    text = architecture.text
    w, f = text.width, text.hidden
    layer = tokens * (4 * w * w + 2 * w * f) + 2 * tokens * tokens * w
    return text.layers * layer + w * architecture.embed_dim

"""What a two-tower model looks like: the sizes of each tower, as presets with overrides.

Sizes: the paper gives 637M and 256M parameters and no widths; the presets' are the best inference
(CoSwin-H: C=256, depths 2/2/24/6), except Swin's own T/S/B/L.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import model_validator

from florence.config.base import Settings, setting
from florence.errors import ConfigurationError


class Attention(StrEnum):
    """How window attention is computed; every choice gives the same result to 1e-5."""

    AUTO = "auto"
    MATH = "math"
    SDPA = "sdpa"


class Embedding(StrEnum):
    """How a stage reduces resolution: CvT's overlapping convolutions, or Swin's patch merging."""

    CONV = "conv"
    SWIN = "swin"


class Activation(StrEnum):
    """The text tower's activation function."""

    GELU = "gelu"
    QUICK_GELU = "quick_gelu"


class ImageTower(Settings):
    """CoSwin: a Swin transformer whose patch embeddings are convolutions."""

    width: int = setting(
        description="channels of the first stage; each later stage doubles them",
        unit="channels",
        ge=8,
    )
    depths: tuple[int, int, int, int] = setting(description="blocks in each of the four stages")
    heads: tuple[int, int, int, int] = setting(
        description="attention heads in each of the four stages"
    )
    window: int = setting(
        7,
        description="side of an attention window at the model's native resolution",
        unit="tokens",
        ge=1,
    )
    mlp_ratio: int = setting(4, description="hidden width of a block's MLP over its channels", ge=1)
    embedding: Embedding = setting(
        Embedding.CONV,
        description="conv: overlapping convolutions (CoSwin); swin: patch merging (Swin)",
    )
    drop_path: float = setting(
        0.0,
        description="highest probability of dropping a block, reached linearly at the last one",
        ge=0,
        lt=1,
    )
    attention: Attention = setting(
        Attention.AUTO,
        description="implementation of window attention; changes speed and memory, never the "
        "result",
        affects_result=False,
    )

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> Self:
        for stage, heads in enumerate(self.heads):
            if heads < 1 or (self.width << stage) % heads:
                raise ValueError(
                    f"heads[{stage}]={heads} does not divide the {self.width << stage} "
                    f"channels of stage {stage + 1}"
                )
        if min(self.depths) < 1:
            raise ValueError("depths must be at least 1 each")
        return self


class TextTower(Settings):
    """A causal transformer in the manner of CLIP, pooled at the end token."""

    width: int = setting(description="channels of the residual stream", unit="channels", ge=8)
    layers: int = setting(12, description="transformer blocks", ge=1)
    heads: int = setting(description="attention heads", ge=1)
    hidden: int = setting(description="hidden width of a block's MLP", unit="channels", ge=1)
    context: int = setting(
        77, description="positions, start and end token included", unit="tokens", ge=3
    )
    vocabulary: int = setting(
        49_408,
        description="entries of the byte-pair vocabulary; the last two are start and end",
        ge=3,
    )
    activation: Activation = setting(Activation.GELU, description="activation of the MLPs")
    norm_eps: float = setting(
        1e-5, description="added to the variance in layer norms; UniCL's release has 1e-12", gt=0
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide width={self.width}")
        return self


class Architecture(Settings):
    """Both towers with every size decided: what a model is built from and saved with."""

    image: ImageTower = setting(description="the image tower")
    text: TextTower = setting(description="the text tower")
    embed_dim: int = setting(description="length of the shared embedding", unit="channels", ge=1)


class ImageOverrides(Settings):
    """Changes to the preset's image tower; what is left out stays as the preset has it."""

    width: int | None = setting(
        None, description="channels of the first stage", unit="channels", ge=8
    )
    depths: tuple[int, int, int, int] | None = setting(None, description="blocks in each stage")
    heads: tuple[int, int, int, int] | None = setting(
        None, description="attention heads in each stage"
    )
    window: int | None = setting(
        None, description="side of an attention window", unit="tokens", ge=1
    )
    mlp_ratio: int | None = setting(
        None, description="hidden width of a block's MLP over its channels", ge=1
    )
    embedding: Embedding | None = setting(None, description="conv or swin")
    drop_path: float | None = setting(
        None, description="highest probability of dropping a block", ge=0, lt=1
    )
    attention: Attention | None = setting(None, description="implementation of window attention")


class TextOverrides(Settings):
    """Changes to the preset's text tower; what is left out stays as the preset has it."""

    width: int | None = setting(
        None, description="channels of the residual stream", unit="channels", ge=8
    )
    layers: int | None = setting(None, description="transformer blocks", ge=1)
    heads: int | None = setting(None, description="attention heads", ge=1)
    hidden: int | None = setting(
        None, description="hidden width of a block's MLP", unit="channels", ge=1
    )
    context: int | None = setting(
        None, description="positions, start and end token included", unit="tokens", ge=3
    )
    vocabulary: int | None = setting(None, description="entries of the byte-pair vocabulary", ge=3)
    activation: Activation | None = setting(None, description="activation of the MLPs")
    norm_eps: float | None = setting(None, description="added to the variance in layer norms", gt=0)


def _architecture(
    width: int,
    depths: tuple[int, int, int, int],
    heads: tuple[int, int, int, int],
    text: tuple[int, int, int, int],
    embed_dim: int,
    *,
    window: int = 7,
    drop_path: float = 0.0,
) -> Architecture:
    text_width, text_heads, hidden, layers = text
    return Architecture(
        image=ImageTower(
            width=width, depths=depths, heads=heads, window=window, drop_path=drop_path
        ),
        text=TextTower(width=text_width, heads=text_heads, hidden=hidden, layers=layers),
        embed_dim=embed_dim,
    )


PRESETS: dict[str, Architecture] = {
    "coswin-nano": _architecture(32, (1, 1, 2, 1), (2, 4, 8, 16), (64, 2, 256, 2), 64, window=4),
    "coswin-t": _architecture(96, (2, 2, 6, 2), (3, 6, 12, 24), (512, 8, 2048, 12), 512),
    "coswin-s": _architecture(96, (2, 2, 18, 2), (3, 6, 12, 24), (512, 8, 2048, 12), 512),
    "coswin-b": _architecture(128, (2, 2, 18, 2), (4, 8, 16, 32), (640, 10, 2560, 12), 512),
    "coswin-l": _architecture(192, (2, 2, 18, 2), (6, 12, 24, 48), (768, 12, 3072, 12), 768),
    "coswin-h": _architecture(
        256, (2, 2, 24, 6), (8, 16, 32, 64), (1152, 18, 4864, 12), 1024, drop_path=0.2
    ),
    "coswin-h64": _architecture(
        256, (2, 2, 24, 6), (4, 8, 16, 32), (1152, 18, 4864, 12), 1024, drop_path=0.2
    ),
}


class ModelConfig(Settings):
    """A preset, with anything about it changed."""

    preset: str = setting("coswin-t", description=f"one of {', '.join(PRESETS)}")
    image: ImageOverrides = setting(
        ImageOverrides(), description="changes to the preset's image tower"
    )
    text: TextOverrides = setting(TextOverrides(), description="changes to the preset's text tower")
    embed_dim: int | None = setting(
        None, description="length of the shared embedding", unit="channels", ge=1
    )

    @model_validator(mode="after")
    def _resolves(self) -> Self:
        self.architecture()
        return self

    def architecture(self) -> Architecture:
        """The preset with the overrides applied.

        Raises:
            ValueError: the preset is unknown, or the overridden sizes do not fit together.
        """
        if self.preset not in PRESETS:
            raise ValueError(f"unknown preset '{self.preset}': use one of {', '.join(PRESETS)}")
        preset = PRESETS[self.preset]
        image = preset.image.model_dump() | self.image.model_dump(exclude_none=True)
        text = preset.text.model_dump() | self.text.model_dump(exclude_none=True)
        return Architecture(
            image=ImageTower(**image),
            text=TextTower(**text),
            embed_dim=self.embed_dim or preset.embed_dim,
        )


def architecture_of(preset: str) -> Architecture:
    """The architecture of a preset by name; a wrong name raises :class:`ConfigurationError`."""
    if preset not in PRESETS:
        raise ConfigurationError(f"unknown preset '{preset}': use one of {', '.join(PRESETS)}")
    return PRESETS[preset]

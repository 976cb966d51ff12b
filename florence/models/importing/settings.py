"""What a user can say about an import; shapes in the checkpoints say the rest."""

from __future__ import annotations

from florence.config.base import Settings, setting
from florence.config.model import PRESETS, Activation


class ImportSettings(Settings):
    """How checkpoints become one model."""

    preset: str = setting(
        "coswin-t",
        description="sizes of a tower that no checkpoint has, and of the shared embedding where "
        f"no projection decides it: {', '.join(PRESETS)}",
    )
    seed: int = setting(0, description="of the weights that no checkpoint has")
    window: int | None = setting(
        None,
        description="side of the attention windows; the checkpoint's when left out",
        unit="tokens",
        ge=1,
    )
    context: int | None = setting(
        None,
        description="positions of the text tower; the checkpoint's when left out",
        unit="tokens",
        ge=3,
    )
    text_heads: int | None = setting(
        None, description="attention heads of the text tower; width / 64 when left out", ge=1
    )
    activation: Activation | None = setting(
        None,
        description="activation of the text tower; gelu when left out, quick_gelu for UniCL. "
        "OpenAI's CLIP and open_clip's -quickgelu models need quick_gelu",
    )
    embed_dim: int | None = setting(
        None,
        description="length of the shared embedding; the projections' when left out",
        unit="channels",
        ge=1,
    )
    resolution: int | None = setting(
        None,
        description="side of the images the model is used with; 32 times the window when left out",
        unit="pixels",
        ge=1,
    )
    mean: tuple[float, float, float] | None = setting(
        None,
        description="subtracted from the channels, which are in [0, 1]; when left out ImageNet's, "
        "and CLIP's where the image tower comes from open_clip",
    )
    std: tuple[float, float, float] | None = setting(
        None, description="divides the channels after the mean is subtracted; as for the mean"
    )

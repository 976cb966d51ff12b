"""Both towers and the temperature: the model that contrastive training fits.

Shapes: B images or texts, D channels of the shared embedding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from florence.config import ActivationCheckpointing, Architecture
from florence.models.image import CoSwin
from florence.models.meta import on_meta
from florence.models.text import TextTransformer


class TwoTower(nn.Module):
    """An image tower, a text tower, and the logarithm of what multiplies their similarities.

    ``logit_scale`` is ln(1 / temperature) in a tensor of shape (1,): DeepSpeed refuses scalars.

    Args:
        architecture: sizes of both towers.
        window: side of the attention windows; the architecture's where None.
        checkpointing: which activations the backward pass recomputes.
        temperature: initial temperature, above 0.
        drop_path: highest probability of dropping an image block; the architecture's where None.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        window: int | None = None,
        checkpointing: ActivationCheckpointing = ActivationCheckpointing.NONE,
        temperature: float = 0.07,
        drop_path: float | None = None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.temperature = temperature
        self.image = CoSwin(
            architecture.image,
            architecture.embed_dim,
            window=window,
            checkpointing=checkpointing,
            drop_path=drop_path,
        )
        self.text = TextTransformer(
            architecture.text, architecture.embed_dim, checkpointing=checkpointing
        )
        self.logit_scale = nn.Parameter(torch.empty(1))
        nn.init.constant_(self.logit_scale, math.log(1 / temperature))

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise both towers and the temperature, drawing from ``generator``."""
        self.image.reset_parameters(generator)
        self.text.reset_parameters(generator)
        nn.init.constant_(self.logit_scale, math.log(1 / self.temperature))

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) floating point to (B, D) float32 of unit length."""
        return F.normalize(self.image(images).float(), dim=-1)

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """(B, L) int64, padded with 0 after the end token, to (B, D) float32 of unit length."""
        return F.normalize(self.text(input_ids).float(), dim=-1)

    def forward(
        self, images: Tensor | None = None, input_ids: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Embeddings of whatever is given, and ln(1 / temperature) of shape (1,)."""
        u = None if images is None else self.encode_image(images)
        v = None if input_ids is None else self.encode_text(input_ids)
        # A copy: wrappers that hook outputs must not hook the parameter itself.
        return u, v, self.logit_scale.clone()


def build_model(
    architecture: Architecture,
    *,
    seed: int,
    window: int | None = None,
    checkpointing: ActivationCheckpointing = ActivationCheckpointing.NONE,
    drop_path: float | None = None,
    temperature: float = 0.07,
    init: bool = True,
) -> TwoTower:
    """A freshly initialised model on the CPU; a function of its arguments and nothing else.

    The global random state is neither read nor changed.

    Args:
        architecture: sizes of both towers.
        seed: of the weights.
        window: side of the attention windows; the architecture's where None.
        checkpointing: which activations the backward pass recomputes.
        drop_path: highest probability of dropping an image block; the architecture's where None.
        temperature: initial temperature, above 0.
        init: False where a checkpoint or another model overwrites every weight: they are NaN then,
            so that one that nothing overwrote shows itself.
    """
    with on_meta():
        model = TwoTower(
            architecture,
            window=window,
            checkpointing=checkpointing,
            temperature=temperature,
            drop_path=drop_path,
        )
    model.to_empty(device="cpu")
    if init:
        model.reset_parameters(torch.Generator().manual_seed(seed))
    else:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(torch.nan)
    return model


def no_decay_names(model: nn.Module) -> set[str]:
    """Parameters that weight decay must leave alone.

    Vectors (norms, biases, temperature), and what a module's own ``no_weight_decay()`` names, as
    in timm: relative position bias tables, positional embeddings.
    """
    names = {name for name, parameter in model.named_parameters() if parameter.ndim < 2}
    for prefix, module in model.named_modules():
        declared = getattr(module, "no_weight_decay", None)
        if declared is not None:
            names |= {f"{prefix}.{name}" if prefix else name for name in declared()}
    return names

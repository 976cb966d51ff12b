"""Random-weight models of other projects, small but for their names and vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.florence.models.references import randomise, reference

VOCABULARY = 49_408
WIDTH, EMBED, CONTEXT = 64, 32, 20
DEPTHS, HEADS = (2, 2, 2, 1), (2, 4, 8, 8)


def swin(*, side: int = 128, window: int = 4, width: int = 16, **changes: Any) -> nn.Module:
    """timm's Swin transformer without a classifier."""
    module = reference("timm.models.swin_transformer")
    options = {
        "img_size": side,
        "window_size": window,
        "embed_dim": width,
        "depths": DEPTHS,
        "num_heads": HEADS,
        "num_classes": 0,
    }
    model: nn.Module = module.SwinTransformer(**options | changes)
    randomise(model, seed=1)
    return model.eval()


def swin_features(model: nn.Module, images: Tensor) -> Tensor:
    """What stands before the classifier."""
    features: Tensor = model.forward_head(model.forward_features(images), pre_logits=True)  # type: ignore[operator]
    return features


def clip_text(*, quick: bool = False, eps: float = 1e-5, layers: int = 2) -> nn.Module:
    """open_clip's text tower with one head of 64 channels."""
    transformer = reference("open_clip.transformer")
    model: nn.Module = transformer.TextTransformer(
        context_length=CONTEXT,
        vocab_size=VOCABULARY,
        width=WIDTH,
        heads=1,
        layers=layers,
        output_dim=EMBED,
        act_layer=transformer.QuickGELU if quick else nn.GELU,
    )
    randomise(model, seed=2)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps
    return model.eval()


def open_clip_swin() -> nn.Module:
    """A whole open_clip model with timm's smallest Swin as its image tower."""
    reference("timm")
    module = reference("open_clip.model")
    model: nn.Module = module.CustomTextCLIP(
        embed_dim=EMBED,
        vision_cfg=module.CLIPVisionCfg(
            timm_model_name="swin_tiny_patch4_window7_224",
            timm_model_pretrained=False,
            timm_pool="",
            timm_proj="linear",
            image_size=224,
        ),
        text_cfg=module.CLIPTextCfg(
            context_length=CONTEXT, vocab_size=VOCABULARY, width=WIDTH, heads=1, layers=2
        ),
    )
    randomise(model.visual, seed=1)  # type: ignore[arg-type]
    randomise(model.text, seed=2)  # type: ignore[arg-type]
    return model.eval()


def texts() -> Tensor:
    """Three texts as the tokenizer writes them: start, words, end, zeros."""
    ids = torch.zeros(3, CONTEXT, dtype=torch.int64)
    generator = torch.Generator().manual_seed(3)
    for row, words in enumerate((1, 7, CONTEXT - 2)):
        ids[row, 0] = VOCABULARY - 2
        ids[row, 1 : words + 1] = torch.randint(1, VOCABULARY - 2, (words,), generator=generator)
        ids[row, words + 1] = VOCABULARY - 1
    return ids


def as_released_swin(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's state as Swin's own release names it: patches merge at the end of a stage."""
    result = {}
    for name, value in state.items():
        stage = name.split(".")[1]
        if ".downsample." in name:
            name = name.replace(f"layers.{stage}.", f"layers.{int(stage) - 1}.", 1)
        result[name] = value
    result["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16).long()
    result["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    return result


def unicl(
    image: nn.Module, text: nn.Module, projection: Tensor, logit_scale: Tensor, *, old: bool = False
) -> dict[str, Tensor]:
    """UniCL's names for a Swin, a text tower and what joins them; ``old`` are its first release's.

    Args:
        text: of :func:`clip_text`.
    """
    names = ("image_encoder.", "text_encoder.", "image_projection")
    if old:
        names = ("visual.", "text.", "vision_projection")
    state = {f"{names[0]}{n}": v for n, v in as_released_swin(image.state_dict()).items()}
    for name, value in text.state_dict().items():
        if name != "text_projection":
            state[f"{names[1]}{name.removeprefix('transformer.')}"] = value
    state["text_projection"] = text.state_dict()["text_projection"]
    state[names[2]] = projection
    state["logit_scale"] = logit_scale
    return state

"""From the weights of an image tower to those of a video tower, so that it starts where that ended.

Rules (Florence, arXiv 2111.11432 section 2.6): a convolution's kernel is repeated in
time and divided by the repetitions; a table of relative positions is repeated for every distance in
time; everything else is taken as it is. A clip whose frames are all alike then has the features of
the frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from florence.config.video import VideoShape
from florence.errors import DataError
from florence.models.video_attention import VideoWindowAttention
from florence.models.video_coswin import VideoCoSwin
from florence.models.video_embed import TubeEmbed
from florence.models.window_resize import TABLE, resize_table


@dataclass(frozen=True)
class Inflated:
    """A state for a video tower, and the names of the tensors that differ from the source's."""

    state: dict[str, Tensor]
    kernels: tuple[str, ...]
    tables: tuple[str, ...]


def inflate(image: Mapping[str, Tensor], tower: VideoCoSwin) -> Inflated:
    """The weights of an image tower as those of ``tower``.

    Args:
        image: an image tower's state, by names without a prefix, of any window.
        tower: what they are for; may be on the meta device. It is not changed.

    Raises:
        DataError: a tensor is missing or of another size than the tower's.
    """
    expected = tower.state_dict()
    state = {name: value for name, value in image.items() if name in expected}
    kernels, tables = [], []
    for prefix, module in tower.named_modules():
        if isinstance(module, TubeEmbed):
            name = f"{prefix}.proj.weight"
            kernel = _found(state, name)
            repeats = module.proj.kernel_size[0]
            if kernel.ndim == 4:
                state[name] = kernel.unsqueeze(2).repeat(1, 1, repeats, 1, 1) / repeats
                kernels.append(name)
        elif isinstance(module, VideoWindowAttention):
            name = f"{prefix}.{TABLE}"
            table = resize_table(_found(state, name), 2 * module.window - 1)
            state[name] = table.repeat(2 * module.window_frames - 1, 1)
            tables.append(name)
    for name, wanted in expected.items():
        if _found(state, name).shape != wanted.shape:
            raise DataError(
                f"the image tower's '{name}' is {tuple(state[name].shape)}, which does not make "
                f"{tuple(wanted.shape)}: give a model of the same sizes"
            )
    return Inflated(state, tuple(kernels), tuple(tables))


def rewindowed(
    video: Mapping[str, Tensor], source: VideoShape, tower: VideoCoSwin
) -> dict[str, Tensor]:
    """The state of a video tower for other windows: tables are resized, all else stays.

    Args:
        video: a video tower's state, by names without a prefix.
        source: the windows it is of.
        tower: what it is for.
    """
    state = dict(video)
    for number, stage in enumerate(tower.layers):
        before = source.window_frames[number], source.windows[number]
        for block, module in stage.named_modules():
            if isinstance(module, VideoWindowAttention):
                name = f"layers.{number}.{block}.{TABLE}"
                after = module.window_frames, module.window
                if before != after:
                    state[name] = _resized(_found(state, name), before, after)
    return state


def _resized(table: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Each distance in time bicubically, as an image tower's; then linearly between distances."""
    heads = table.shape[1]
    frames, side = (2 * size - 1 for size in before)
    new_frames, new_side = (2 * size - 1 for size in after)
    slices = table.reshape(frames, side**2, heads)
    tables = torch.stack([resize_table(part, new_side) for part in slices]).float()
    if frames != new_frames:
        lines = tables.flatten(1).t().unsqueeze(0)
        lines = F.interpolate(lines, size=new_frames, mode="linear", align_corners=True)
        tables = lines[0].t()
    return tables.reshape(new_frames * new_side**2, heads).contiguous().to(table.dtype)


def _found(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise DataError(f"the model has no '{name}' in its image tower: give a whole model")
    return state[name]

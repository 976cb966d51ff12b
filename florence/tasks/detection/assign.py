"""Which anchors are to find which objects: ATSS (arXiv 1912.02424), for a whole batch at once.

For every object the anchors with the nearest centres are candidates, some of every level. An object
takes those whose IoU with it is at least the mean plus the standard deviation over its candidates,
and whose centre lies in it; an anchor that several objects take goes to the one with the highest
IoU.

Shapes: B images, at most N objects an image, A anchors, C candidates an object.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from florence.tasks.detection.anchors import Level, anchors
from florence.tasks.detection.boxes import centres, iou

CANDIDATES = 9
"""Candidates of every level, or all of its anchors where it has fewer."""
INSIDE = 0.01
"""How far a centre must lie inside an object to belong to it, in pixels."""


def assign(levels: tuple[Level, ...], boxes: Sequence[Tensor]) -> Tensor:
    """The object that each anchor is to find.

    Args:
        levels: of the pyramid; their anchors are those of :func:`anchors`.
        boxes: for each image, fp32 ``(N_i, 4)``; images may have none.

    Returns:
        int64 ``(B, A)``: the number of the object in its image, -1 for background.
    """
    every = anchors(levels, boxes[0].device if boxes else "cpu")
    most = max(map(len, boxes), default=0)
    if most == 0:
        return torch.full((len(boxes), len(every)), -1, dtype=torch.int64, device=every.device)
    padded = pad_sequence(list(boxes), batch_first=True)
    counts = torch.tensor([len(each) for each in boxes], device=every.device)
    real = torch.arange(most, device=every.device) < counts[:, None]
    candidates = _nearest(levels, centres(padded))
    overlap = iou(every[candidates], padded[:, :, None])
    spread = overlap.std(dim=-1) if overlap.shape[-1] > 1 else torch.zeros_like(overlap[..., 0])
    threshold = overlap.mean(dim=-1) + spread
    middle = centres(every)[candidates]
    margin = torch.cat([middle - padded[:, :, None, :2], padded[:, :, None, 2:] - middle], dim=-1)
    takes = (overlap >= threshold[..., None]) & (margin.amin(dim=-1) > INSIDE) & real[..., None]
    return _resolve(candidates, overlap, takes, len(every))


def _nearest(levels: Sequence[Level], middles: Tensor) -> Tensor:
    """Anchors with the nearest centres to ``(B, N, 2)``, of every level: int64 ``(B, N, C)``.

    Centres lie on a grid, so the k nearest to a point are within k rows and k columns around it:
    only those are compared. Of equal distances the lower number counts as nearer.
    """
    found, first = [], 0
    for level in levels:
        rows = _around(middles[..., 1], level.height, level.stride)
        columns = _around(middles[..., 0], level.width, level.stride)
        dy = (rows + 0.5) * level.stride - middles[..., 1, None]
        dx = (columns + 0.5) * level.stride - middles[..., 0, None]
        distance = (dy.square()[..., :, None] + dx.square()[..., None, :]).flatten(-2)
        number = (rows[..., :, None] * level.width + columns[..., None, :]).flatten(-2)
        order = distance.sort(dim=-1, stable=True).indices[..., : min(CANDIDATES, level.cells)]
        found.append(number.gather(-1, order) + first)
        first += level.cells
    return torch.cat(found, dim=-1)


def _around(position: Tensor, cells: int, stride: int) -> Tensor:
    """Consecutive cells of one axis around positions in pixels: int64 ``(…, min(k, cells))``."""
    count = min(CANDIDATES, cells)
    nearest = (position / stride).floor().long()
    start = (nearest - CANDIDATES // 2).clamp(min=0, max=cells - count)
    return start[..., None] + torch.arange(count, device=position.device)


def _resolve(candidates: Tensor, overlap: Tensor, takes: Tensor, anchor_count: int) -> Tensor:
    """Give each anchor to the object with the highest IoU of those that take it, or to none."""
    images, objects, _ = candidates.shape
    flat = candidates.flatten(1)
    value = torch.where(takes, overlap, -1.0).flatten(1)
    best = value.new_full((images, anchor_count), -1.0)
    best.scatter_reduce_(1, flat, value, "amax")
    wins = takes.flatten(1) & (value == best.gather(1, flat))
    number = torch.arange(objects, device=flat.device)[:, None].expand(candidates.shape[1:])
    number = torch.where(wins, number.flatten().expand_as(flat), objects)
    chosen = torch.full((images, anchor_count), objects, dtype=torch.int64, device=flat.device)
    chosen.scatter_reduce_(1, flat, number, "amin")
    return torch.where(chosen == objects, -1, chosen)

"""Texts of predictions and evaluations as a model takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from florence.data.text_batches import padded
from florence.models.vision_language import VisionLanguageShape
from florence.tasks.predicting import BadRowError
from florence.text.coding import coded


def coded_texts(
    texts: Sequence[str], shape: VisionLanguageShape, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Token ids (B, L) and lengths (B,) of at least one text, int64, on a device."""
    rows = [coded(shape.coder, text, shape.text_length) for text in texts]
    ids, lengths = padded(rows, shape.coder.padding, shape.text_length)
    return torch.from_numpy(ids).to(device), torch.from_numpy(lengths).to(device)


def text_of(row: Mapping[str, Any], column: str, number: int) -> str:
    """A row's text. Raises :class:`BadRowError` where it has none; names row and column."""
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise BadRowError(f"row {number}: {column} must be a text")
    return value.strip()

"""What one checkpoint gives to a model."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from florence.config.model import ImageTower, TextTower
from florence.errors import DataError


@dataclass(frozen=True)
class Pixels:
    """What a project's image towers are used to: mean and deviation of the channels."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = Pixels((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class Part:
    """Towers that a checkpoint has, their tensors under our names, and what has no place here."""

    image: ImageTower | None = None
    text: TextTower | None = None
    state: dict[str, Tensor] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    pixels: Pixels = IMAGENET


def without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What begins with ``prefix``, under the rest of its name."""
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def required(state: dict[str, Tensor], name: str, source: str) -> Tensor:
    """A tensor that an architecture is read from; a ``DataError`` where it is missing."""
    if name not in state:
        raise DataError(f"{source}: '{name}' is missing: give a whole checkpoint")
    return state[name]


def count_blocks(state: dict[str, Tensor], prefix: str) -> int:
    """How many modules of a list ``prefix.0``, ``prefix.1``, … have tensors."""
    count = 0
    while any(name.startswith(f"{prefix}.{count}.") for name in state):
        count += 1
    return count

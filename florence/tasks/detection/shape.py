"""What a detector's head is built of: the ``head`` of its model's card. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Protocol, Self

from florence.errors import DataError

DETECTION = "detection"
"""The task of a detector of the classes that it was trained on, as its card names it."""
ZERO_SHOT_DETECTION = "zeroShotDetection"
"""The task of a detector of anything, whose boxes are classified with texts."""


class Normalisation(StrEnum):
    """What follows each deformable convolution of a dynamic head."""

    GROUP = "group"
    LAYER = "layer"
    NONE = "none"


class Card(Protocol):
    """The part of a model's card that a head is read from."""

    @property
    def task(self) -> str:
        """What the model does."""

    @property
    def head(self) -> Any:
        """The task's own settings of its head; none where it has no head."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorShape:
    """Sizes of everything behind the image tower.

    Attributes:
        classes: K, outputs for each anchor; 1 where all objects are alike.
        attributes: names of the attributes that a branch of their own tells; none without it.
        channels: of every level of the pyramid.
        blocks: of the dynamic head, one after the other.
        normalisation: within the blocks.
        groups: of channels, for group normalisation.
        finest: stride of the pyramid's first level, 4 or 8.
        coarsest: stride of its last one, 32, 64 or 128.
        long_side: largest long side of an image in training, in pixels.
        tower_resolution: side of the images that the tower saw before, with texts beside them.
    """

    classes: int
    attributes: tuple[str, ...] = ()
    channels: int = 256
    blocks: int = 6
    normalisation: str = Normalisation.GROUP.value
    groups: int = 16
    finest: int = 8
    coarsest: int = 128
    long_side: int = 1_333
    tower_resolution: int = 224

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between the cells of each level."""
        return tuple(s for s in (4, 8, 16, 32, 64, 128) if self.finest <= s <= self.coarsest)

    @property
    def first_stage(self) -> int:
        """The tower's first stage that feeds the pyramid, from 0."""
        return 0 if self.finest == 4 else 1

    def to_card(self) -> dict[str, Any]:
        """The values as JSON."""
        return {**asdict(self), "attributes": list(self.attributes)}

    @classmethod
    def of(cls, card: Card, uri: str) -> Self:
        """The head that a card describes. Raises :class:`DataError` when it describes none."""
        known = {field.name for field in fields(cls)}
        values = card.head or {}
        if card.task not in (DETECTION, ZERO_SHOT_DETECTION) or not (
            {"classes"} <= values.keys() <= known
        ):
            raise DataError(
                f"{uri}: a model of task '{card.task}' without a detector that is known here: "
                f"give a model of task '{DETECTION}'"
            )
        names: Any = values.get("attributes", ())
        return cls(**{**values, "attributes": tuple(names)})

"""What a user may set about pseudo boxes, and the format that the importer runs. No torch."""

from __future__ import annotations

from pydantic import field_validator

from florence.config.base import setting
from florence.data.importing.registry import ImportFormat
from florence.data.importing.settings import ImportSettings


class PseudoLabels(ImportSettings):
    """Boxes that a detector draws where no person did."""

    detector: str = setting(
        "", description="URI of the trained detector, or of the stage that left it"
    )
    threshold: float = setting(
        0.5, description="lowest score of a box that is kept; its score stays beside it", ge=0, le=1
    )
    labels: tuple[str, ...] = setting(
        (), description="zero-shot detectors: the names of what to find"
    )
    name: str = setting(
        "pseudo", description="what the data set's vocabulary is called", min_length=1
    )

    @field_validator("name")
    @classmethod
    def _one_name(cls, name: str) -> str:
        if "+" in name:
            raise ValueError("a '+' joins the names of data sets: give one without")
        return name


PSEUDO_LABELS = ImportFormat(
    name="pseudo-label",
    help="Images of any shards with the boxes that a detector finds in them.",
    sources="shards, or a file that can be imported",
    example="runs/boxes/model shards/imagenet shards/imagenet-boxes --threshold 0.5",
    settings=PseudoLabels,
    opener="florence.tasks.detection.pseudo_labels:open_pseudo_labels",
)

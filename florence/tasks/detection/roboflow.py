"""The eleven Roboflow sets of the paper's open-set detection table (arXiv 2111.11432, table 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PIECES = ("bishop", "king", "knight", "pawn", "queen", "rook")
_CATS = (
    "Abyssinian", "Bengal", "Birman", "Bombay", "British_Shorthair", "Egyptian_Mau", "Maine_Coon",
    "Persian", "Ragdoll", "Russian_Blue", "Siamese", "Sphynx",
)  # fmt: skip
_DOGS = (
    "american_bulldog", "american_pit_bull_terrier", "basset_hound", "beagle", "boxer", "chihuahua",
    "english_cocker_spaniel", "english_setter", "german_shorthaired", "great_pyrenees", "havanese",
    "japanese_chin", "keeshond", "leonberger", "miniature_pinscher", "newfoundland", "pomeranian",
    "pug", "saint_bernard", "samoyed", "scottish_terrier", "shiba_inu",
    "staffordshire_bull_terrier", "wheaten_terrier", "yorkshire_terrier",
)  # fmt: skip


def _key(name: str) -> str:
    return "-".join(name.replace("_", " ").replace("-", " ").lower().split())


@dataclass(frozen=True, kw_only=True)
class RoboflowSet:
    """One data set.

    Attributes:
        name: as the paper calls it.
        images: in all its splits together.
        classes: as the export names them, without blank ones.
        zero_shot: the paper's mAP of Florence without training, in percent.
        five_shot: the paper's mAP of a fine-tuned DyHead with five shots, in percent.
    """

    name: str
    images: int
    classes: tuple[str, ...]
    zero_shot: float
    five_shot: float


_SETS = (
    RoboflowSet(
        name="Aquarium",
        images=638,
        classes=("fish", "jellyfish", "penguin", "puffin", "shark", "starfish", "stingray"),
        zero_shot=43.1,
        five_shot=39.0,
    ),
    RoboflowSet(
        name="BCCD",
        images=364,
        classes=("Platelets", "RBC", "WBC"),
        zero_shot=15.3,
        five_shot=40.6,
    ),
    RoboflowSet(
        name="Chess Pieces",
        images=292,
        # The export has a 13th category, blank and unused.
        classes=tuple(f"{colour} {piece}" for colour in ("black", "white") for piece in _PIECES),
        zero_shot=13.4,
        five_shot=57.3,
    ),
    RoboflowSet(
        name="Mask Wearing",
        images=149,
        classes=("mask", "no-mask"),
        zero_shot=15.0,
        five_shot=26.8,
    ),
    RoboflowSet(
        name="Oxford Pets",
        images=3_680,
        classes=(*(f"cat-{breed}" for breed in _CATS), *(f"dog-{breed}" for breed in _DOGS)),
        zero_shot=68.9,
        five_shot=47.5,
    ),
    RoboflowSet(name="Packages", images=26, classes=("package",), zero_shot=79.6, five_shot=32.8),
    RoboflowSet(name="Pistols", images=2_986, classes=("pistol",), zero_shot=41.4, five_shot=20.0),
    RoboflowSet(
        name="PKLot",
        images=12_416,
        classes=("space-empty", "space-occupied"),
        zero_shot=31.4,
        five_shot=22.1,
    ),
    RoboflowSet(name="Pothole", images=665, classes=("pothole",), zero_shot=53.3, five_shot=10.8),
    RoboflowSet(
        name="Thermal", images=203, classes=("dog", "person"), zero_shot=46.9, five_shot=54.9
    ),
    RoboflowSet(
        name="Wildfire Smoke", images=737, classes=("smoke",), zero_shot=48.7, five_shot=14.2
    ),
)
ROBOFLOW: Mapping[str, RoboflowSet] = {_key(known.name): known for known in _SETS}
"""By names such as ``chess-pieces``."""


def set_of(names: Sequence[str]) -> RoboflowSet | None:
    """Which of the sets has these classes; None when none has.

    Exports write the same class with blanks, hyphens or underscores, and some have blank ones.
    """
    wanted = {_key(name) for name in names if name.strip()}
    found = (known for known in _SETS if {_key(name) for name in known.classes} == wanted)
    return next(found, None)

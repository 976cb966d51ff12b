"""Whether captions of the digits' scenes say how many digits there are, and which."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from florence.data.digit_questions import SCENES, make_scene
from florence.data.digits import WORDS

_COUNT = re.compile(r"\b(\w+) (?:handwritten )?digits?\b|\b(\w+) in all\b")


def said_of(caption: str) -> tuple[int | None, list[int]]:
    """How many digits a caption says that there are (None: it does not say), and which it names."""
    counts = [word for found in _COUNT.findall(caption) for word in found if word in WORDS]
    named = [WORDS.index(word) for word in re.findall(r"\ban? (\w+)", caption) if word in WORDS]
    return (WORDS.index(counts[0]) if counts else None), named


def caption_figures(captions: Sequence[str], scenes: Sequence[Sequence[int]]) -> dict[str, float]:
    """Parts of the captions, in [0, 1]: ``count``, that say the right number of digits and name so
    many, and ``digits``, that name exactly those there are, from left to right.

    Args:
        captions: one a scene.
        scenes: the digits of each.
    """
    said = [said_of(caption) for caption in captions]
    counts = [
        count == len(named) == len(scene)
        for (count, named), scene in zip(said, scenes, strict=True)
    ]
    digits = [named == list(scene) for (_, named), scene in zip(said, scenes, strict=True)]
    return {"count": sum(counts) / len(counts), "digits": sum(digits) / len(digits)}


def figures_of_stage(folder: Path) -> dict[str, float]:
    """:func:`caption_figures` of the test scenes, from the artifacts of a stage that measured them.

    Args:
        folder: the stage's; the evaluation is called ``caption``.
    """
    from sklearn.datasets import load_digits

    given = json.loads((folder / "results/caption/caption-captions.json").read_text("utf-8"))
    _, classes = load_digits(return_X_y=True)
    scenes = [make_scene("test", number, classes).digits for number in range(SCENES["test"])]
    return caption_figures([each["caption"] for each in given], scenes)

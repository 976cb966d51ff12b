"""The recipes that are written out as samples: one entry a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from florence_jobs.recipes import (
    digits,
    digits_detection,
    digits_video,
    florence,
    florence_all,
    vision_language,
)
from florence_operator.api import FlorenceJob, to_yaml
from florence_operator.api.generated import write_or_check


@dataclass(frozen=True, slots=True)
class Recipe:
    """A job and the comment that its sample begins with."""

    job: Callable[[], FlorenceJob]
    header: str

    def sample(self) -> str:
        """The text of the sample."""
        return f"{self.header}{to_yaml(self.job().manifest())}"


RECIPES: dict[str, Recipe] = {
    "digits": Recipe(digits.digits, digits.DIGITS_HEADER),
    "digits-finetune": Recipe(digits.digits_finetune, digits.DIGITS_FINETUNE_HEADER),
    "digits-detection": Recipe(
        digits_detection.digits_detection, digits_detection.DIGITS_DETECTION_HEADER
    ),
    "digits-vision-language": Recipe(
        vision_language.digits_vision_language, vision_language.DIGITS_VISION_LANGUAGE_HEADER
    ),
    "digits-video": Recipe(digits_video.digits_video, digits_video.DIGITS_VIDEO_HEADER),
    "digits-cluster": Recipe(digits.digits_cluster, digits.DIGITS_CLUSTER_HEADER),
    "florence-h": Recipe(florence.florence_h, florence.FLORENCE_H_HEADER),
    "florence-all": Recipe(florence_all.florence_all, florence_all.FLORENCE_ALL_HEADER),
}


def write_samples(folder: Path, *, check: bool) -> int:
    """Write the samples into a folder, or say which of them are stale; 1 when one is."""
    files = {folder / f"{name}.yaml": recipe.sample() for name, recipe in RECIPES.items()}
    return write_or_check(files, check=check)

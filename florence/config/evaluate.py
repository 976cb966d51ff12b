"""The settings of an evaluation stage."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import model_validator

from florence.config.base import Settings, setting
from florence.config.stage import StageSettings
from florence.config.training import Precision


class Baseline(StrEnum):
    """A classical classifier to print beside the model's accuracy."""

    NONE = "none"
    SVM = "svm-rbf"


class RetrievalFormat(StrEnum):
    """Where image-text pairs for retrieval come from."""

    SHARDS = "shards"
    KARPATHY = "karpathy"
    FOLDER = "folder"


class ZeroShot(Settings):
    """Zero-shot classification of labelled images with prompt ensembling."""

    name: str = setting(
        description="name of the result", pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
    )
    data: str = setting(
        description="URI of labelled shards (.cls members), or of a folder with one "
        "sub-folder per class",
        min_length=1,
    )
    prompts: str = setting(
        description="class names and templates: 'digits', or the path or s3:// URI of a YAML "
        "file with lists 'classes' and 'templates'",
        min_length=1,
    )
    baseline: Baseline = setting(
        Baseline.NONE, description="classifier trained on baselineData's pixels for comparison"
    )
    baseline_data: str | None = setting(
        None, description="URI of the labelled training images of the baseline"
    )

    @model_validator(mode="after")
    def _baseline_has_data(self) -> Self:
        if self.baseline is not Baseline.NONE and not self.baseline_data:
            raise ValueError("baselineData is required with a baseline")
        return self


class Retrieval(Settings):
    """Image-to-text and text-to-image retrieval, R@1, R@5 and R@10 both ways."""

    name: str = setting(
        description="name of the result", pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
    )
    data: str = setting(
        description="URI of the shards, of the Karpathy json, or of the folder of images with "
        ".txt files",
        min_length=1,
    )
    format: RetrievalFormat = setting(
        RetrievalFormat.SHARDS, description="shards, karpathy or folder"
    )
    images: str | None = setting(
        None,
        description="folder of the images that a Karpathy json names. Default: the json's own "
        "folder",
    )
    split: str = setting("test", description="split of the Karpathy json")
    captions_per_image: int = setting(
        5, description="captions used of each image, the first ones", ge=1
    )


class Evaluate(StageSettings):
    """One evaluation stage."""

    zero_shot: tuple[ZeroShot, ...] = setting((), description="zero-shot classifications")
    retrieval: tuple[Retrieval, ...] = setting((), description="retrievals")
    batch_size: int = setting(
        256, description="images embedded at once, per rank", unit="samples", ge=1
    )
    resolution: int | None = setting(
        None,
        description="side of the square images. Default: that of the stage before",
        unit="pixels",
        ge=8,
    )
    precision: Precision = setting(Precision.FP32, description="number format of matrix products")
    workers: int = setting(2, description="processes that decode images, per rank", ge=0)

    @model_validator(mode="after")
    def _has_something_to_do(self) -> Self:
        names = [t.name for t in self.zero_shot] + [t.name for t in self.retrieval]
        if not names:
            raise ValueError("give at least one of zeroShot and retrieval")
        if len(set(names)) < len(names):
            raise ValueError("names of zeroShot and retrieval must differ")
        return self

"""What a user may set about an import. No torch, no numpy: the command line is made from it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from florence.config.base import Settings, setting

SPEED_ONLY = ("workers", "strict", "max_broken_fraction")
"""Settings that do not change what is written."""


class ImportSettings(Settings):
    """How any format is written as shards."""

    samples_per_shard: int = setting(
        10_000, description="most samples in a shard", unit="samples", ge=1
    )
    bytes_per_shard: int = setting(
        512 << 20, description="most bytes in a shard", unit="bytes", ge=1 << 10
    )
    shorter_side: int | None = setting(
        None,
        description="write larger images as JPEG with this shorter side; without it, every "
        "image's bytes are copied as they are",
        unit="pixels",
        ge=16,
    )
    quality: int = setting(
        90, description="JPEG quality of the images that shorter-side makes smaller", ge=1, le=95
    )
    decode: bool = setting(
        False,
        description="decode every image to find the cut-off ones now; else only its header is read",
    )
    workers: int = setting(
        8, description="threads that read and check images ahead", unit="threads", ge=1
    )
    strict: bool = setting(False, description="stop at the first broken row")
    max_broken_fraction: float = setting(
        0.01,
        description="fraction of broken rows above which the import fails with exit code 3",
        ge=0,
        le=1,
    )

    def identity(self) -> dict[str, Any]:
        """The settings on which the result depends, as JSON values."""
        values = self.model_dump(mode="json")
        return {name: value for name, value in values.items() if name not in SPEED_ONLY}


class ClassFolders(ImportSettings):
    """One sub-folder of images for each class."""

    classes: str | None = setting(
        None,
        description="file with the folders in the order of the class numbers, as a JSON list or "
        "one per line; or a JSON object {folder: name}, where classes have other names; default: "
        "the sorted folders",
    )


class Table(ImportSettings):
    """A csv, tsv or parquet file with one image in a row."""

    images: str | None = setting(
        None, description="folder that the image column is relative to; default: the file's own"
    )
    image_column: str | None = setting(
        None,
        description="column with the image's path (in parquet also its bytes); default: the first "
        "of image, filepath, file_name, path",
    )
    text_column: str | None = setting(
        None, description="column with the text; default: the first of caption, text"
    )
    label_column: str | None = setting(
        None, description="column with the class, a name or a number; default: label"
    )
    query_column: str | None = setting(
        None, description="column with the query that found the image; default: query"
    )
    classes: str | None = setting(
        None,
        description="file with the classes' names in the order of their numbers, as a JSON list "
        "or one per line; default: the names in the label column, sorted",
    )


class KarpathySplit(StrEnum):
    """A part of Karpathy's division; ``train`` includes ``restval``."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"
    ALL = "all"


class Karpathy(ImportSettings):
    """Karpathy's JSON of COCO or Flickr30k."""

    images: str | None = setting(
        None, description="folder that the JSON's file names are relative to; default: its own"
    )
    split: KarpathySplit = setting(
        KarpathySplit.TRAIN,
        description="train (which includes restval), val, test or all",
    )


class CocoCaptions(ImportSettings):
    """COCO's captions_*.json."""

    images: str | None = setting(
        None, description="folder that the JSON's file names are relative to; default: its own"
    )


class VideoImport(ImportSettings):
    """What importers of videos have in common."""

    videos: str | None = setting(
        None, description="folder of the video files; default: that of the source"
    )
    short_side: int | None = setting(
        None,
        description="write videos anew as H.264 in mp4 without sound, with this shorter side "
        "where theirs is longer; without it and fps, their bytes are copied as they are",
        unit="pixels",
        ge=16,
    )
    fps: float | None = setting(
        None,
        description="write videos anew with this frame rate",
        unit="frames/s",
        gt=0,
        le=240,
    )


class VideoClasses(VideoImport):
    """Videos with one class each."""

    classes: str | None = setting(
        None,
        description="file with the classes' names in the order of their numbers, as a JSON list "
        "or one per line; default: the names that occur, sorted",
    )


class VideoCaptions(VideoImport):
    """Videos with captions."""

    split: str | None = setting(
        None, description="only videos of this split, where the source names splits"
    )


class SegmentCaptions(VideoCaptions):
    """Videos whose captions belong to parts of them."""

    whole: bool = setting(
        True,
        description="one sample for each video, described by all its captions in one text, as "
        "paragraph retrieval has it; no: one for each part, cut out",
    )


class WebDataset(ImportSettings):
    """Shards that are packed anew."""

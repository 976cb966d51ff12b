"""What a user may set about an import. No torch, no numpy: the command line is made from it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import field_validator

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


class Regions(ImportSettings):
    """Visual Genome's region_descriptions.json."""

    images: str | None = setting(
        None, description="folder of the images, or of VG_100K and VG_100K_2; default: the file's"
    )


class Questions(ImportSettings):
    """VQAv2's questions and annotations, and data sets of their shape."""

    images: str | None = setting(
        None, description="folder of the images; default: that of the questions"
    )
    image_name: str = setting(
        "COCO_{subtype}_{id:012d}.jpg",
        description="an image's file in that folder, of the question's image_id as {id} and the "
        "file's data_subtype as {subtype}; an 'image' of the question, or an id that is a file "
        "name, wins over it",
    )
    annotators: int = setting(
        10,
        description="answers that each question must have; 0 takes any number",
        unit="answers",
        ge=0,
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


class BoxSettings(ImportSettings):
    """Images with boxes."""

    images: str | None = setting(
        None, description="folder that the images' names are relative to; default: the file's own"
    )
    name: str | None = setting(
        None,
        description="what the data set's vocabulary is called among others; default: the format",
        min_length=1,
    )
    keep_blank: bool = setting(
        False, description="keep a category without a name, which some exports have, and its boxes"
    )

    @field_validator("name")
    @classmethod
    def _one_name(cls, name: str | None) -> str | None:
        if name is not None and "+" in name:
            raise ValueError("a '+' joins the names of data sets: give one without")
        return name


class OpenImages(BoxSettings):
    """Open Images' box files."""

    classes: str | None = setting(
        None,
        description="class-descriptions-boxable.csv, which says what the labels are called; "
        "default: the file of that name (or oidv7-…) beside the boxes",
    )
    image_labels: str | None = setting(
        None,
        description="…-annotations-human-imagelabels-boxable.csv: which labels were looked for in "
        "an image and not found. Without it only those with a box count as looked for",
    )


class VisualGenome(BoxSettings):
    """Visual Genome's objects.json."""

    attributes: str | None = setting(
        None, description="attributes.json; default: the file of that name beside it, if any"
    )
    image_data: str | None = setting(
        None, description="image_data.json; default: the file of that name beside it, if any"
    )
    classes: str | None = setting(
        None,
        description="file with the names to keep (VinVL keeps 1,594), as a JSON list or one per "
        "line; default: all that occur",
    )
    attribute_names: str | None = setting(
        None,
        description="file with the attributes to keep (VinVL keeps 524); default: all that occur",
    )


class Voc(BoxSettings):
    """Pascal VOC's XML files."""

    split: str | None = setting(
        None,
        description="list of images under ImageSets/Main, such as trainval; default: every XML "
        "file",
    )
    classes: str | None = setting(
        None, description="file with the names of the classes; default: those that occur, sorted"
    )
    first_pixel: int = setting(
        1,
        description="number of the first pixel: 1 as VOC counts, whose corners are the first and "
        "last pixel; 0 for tools that write x and y from 0 and corners as lines",
        ge=0,
        le=1,
    )


class YoloSplit(StrEnum):
    """A part of a YOLO data set."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class Yolo(BoxSettings):
    """YOLO's text files."""

    split: YoloSplit = setting(YoloSplit.TRAIN, description="train, val or test of data.yaml")
    classes: str | None = setting(
        None, description="file with the names of the classes; default: those of data.yaml"
    )


class RoboflowSplit(StrEnum):
    """A folder of a Roboflow export."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


class Roboflow(BoxSettings):
    """An export of Roboflow, as COCO, YOLO or VOC."""

    split: RoboflowSplit = setting(RoboflowSplit.TRAIN, description="train, valid or test")

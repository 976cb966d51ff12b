"""The formats that ``florencectl data import`` reads: one entry each, listed without torch.

A new format is a settings model, a module with a function that opens it, and an entry here;
commands, flags, help and detection follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from florence.data.importing.settings import (
    BoxSettings,
    ClassFolders,
    CocoCaptions,
    ImportSettings,
    Karpathy,
    OpenImages,
    Questions,
    Regions,
    Roboflow,
    Table,
    VisualGenome,
    Voc,
    WebDataset,
    Yolo,
)
from florence.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class ImportFormat:
    """A format of data.

    Attributes:
        name: how a user calls it.
        help: one line.
        sources: what the sources are, for the help.
        example: the arguments of a typical command, for the help.
        settings: what may be set.
        opener: ``module:function``, called as ``(sources, settings, s3)``; gives a
            :class:`~florence.data.importing.rows.Source`.
        suffixes: names of files that are of this format.
        fits: for a ``.json`` file: whether a document is of this format, of which it is given the
            first object of each list.
    """

    name: str
    help: str
    sources: str
    example: str
    settings: type[ImportSettings]
    opener: str
    suffixes: tuple[str, ...] = ()
    fits: Callable[[Mapping[str, Any]], bool] | None = None

    def open(self) -> Callable[..., Any]:
        """The function behind ``opener``, imported now."""
        module, _, name = self.opener.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function


def _first(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The first object of a list in a document; empty when there is none."""
    listed = document.get(name)
    first = listed[0] if isinstance(listed, list) and listed else {}
    return first if isinstance(first, Mapping) else {}


def _is_karpathy(document: Mapping[str, Any]) -> bool:
    return {"sentences", "filename"} <= _first(document, "images").keys()


def _is_coco_captions(document: Mapping[str, Any]) -> bool:
    return {"caption", "image_id"} <= _first(document, "annotations").keys()


def _is_boxes(document: Mapping[str, Any]) -> bool:
    first = _first(document, "annotations")
    named = "categories" in document and "annotations" not in document
    return {"category_id", "image_id"} <= first.keys() or named


def _is_lvis(document: Mapping[str, Any]) -> bool:
    return _is_boxes(document) and "neg_category_ids" in _first(document, "images")


def _is_visual_genome(document: Mapping[str, Any]) -> bool:
    return "objects" in _first(document, "")


def _is_regions(document: Mapping[str, Any]) -> bool:
    return "regions" in _first(document, "")


def _is_questions(document: Mapping[str, Any]) -> bool:
    return {"question", "question_id"} <= _first(document, "questions").keys()


_HERE = "florence.data.importing"
_ALL = (
    ImportFormat(
        name="class-folders",
        help="Folders of images, one for each class.",
        sources="folders that hold a sub-folder of images for each class",
        example="imagenet/train shards/imagenet-train --classes names.json",
        settings=ClassFolders,
        opener=f"{_HERE}.class_folders:open_class_folders",
    ),
    ImportFormat(
        name="csv",
        help="A comma-separated table with a row for each image.",
        sources=".csv files with a header",
        example="pairs.csv shards/pairs --images photos --text-column title",
        settings=Table,
        opener=f"{_HERE}.table:open_csv",
        suffixes=(".csv",),
    ),
    ImportFormat(
        name="tsv",
        help="A tab-separated table with a row for each image.",
        sources=".tsv files with a header",
        example="pairs.tsv shards/pairs --images photos",
        settings=Table,
        opener=f"{_HERE}.table:open_tsv",
        suffixes=(".tsv",),
    ),
    ImportFormat(
        name="parquet",
        help="A parquet table with a row for each image, its bytes or its path.",
        sources=".parquet files",
        example="part-0.parquet part-1.parquet shards/pairs",
        settings=Table,
        opener=f"{_HERE}.table:open_parquet",
        suffixes=(".parquet",),
    ),
    ImportFormat(
        name="karpathy",
        help="Karpathy's JSON of COCO or Flickr30k, with several captions an image.",
        sources="dataset_coco.json or dataset_flickr30k.json",
        example="dataset_coco.json shards/coco-test --images coco --split test",
        settings=Karpathy,
        opener=f"{_HERE}.captions:open_karpathy",
        fits=_is_karpathy,
    ),
    ImportFormat(
        name="coco-captions",
        help="COCO's captions_*.json, with several captions an image.",
        sources="captions_*.json files",
        example="annotations/captions_train2017.json shards/coco --images train2017",
        settings=CocoCaptions,
        opener=f"{_HERE}.captions:open_coco_captions",
        fits=_is_coco_captions,
    ),
    ImportFormat(
        name="lvis",
        help="LVIS v1, boxes in COCO's images with federated negatives.",
        sources="lvis_v1_*.json files",
        example="lvis_v1_train.json shards/lvis --images coco",
        settings=BoxSettings,
        opener=f"{_HERE}.coco_boxes:open_lvis",
        fits=_is_lvis,
    ),
    ImportFormat(
        name="coco",
        help="Boxes in COCO's JSON, whoever wrote it.",
        sources="instances_*.json files",
        example="annotations/instances_train2017.json shards/coco --images train2017",
        settings=BoxSettings,
        opener=f"{_HERE}.coco_boxes:open_coco",
        fits=_is_boxes,
    ),
    ImportFormat(
        name="objects365",
        help="Objects365, boxes in COCO's JSON and images in patches.",
        sources="zhiyuan_objv2_*.json files",
        example="zhiyuan_objv2_train.json shards/objects365 --images objects365/train",
        settings=BoxSettings,
        opener=f"{_HERE}.coco_boxes:open_objects365",
    ),
    ImportFormat(
        name="openimages",
        help="Open Images' boxes with group-of boxes and verified negatives.",
        sources="…-annotations-bbox.csv files",
        example="oidv6-train-annotations-bbox.csv shards/openimages --images openimages/train",
        settings=OpenImages,
        opener=f"{_HERE}.open_images:open_open_images",
    ),
    ImportFormat(
        name="visual-genome",
        help="Visual Genome's objects and their attributes.",
        sources="objects.json",
        example="visual-genome/objects.json shards/visual-genome",
        settings=VisualGenome,
        opener=f"{_HERE}.visual_genome:open_visual_genome",
        fits=_is_visual_genome,
    ),
    ImportFormat(
        name="visual-genome-regions",
        help="Visual Genome's sentences about regions, as captions of their images.",
        sources="region_descriptions.json",
        example="visual-genome/region_descriptions.json shards/visual-genome-captions",
        settings=Regions,
        opener=f"{_HERE}.regions:open_regions",
        fits=_is_regions,
    ),
    ImportFormat(
        name="voc",
        help="Pascal VOC's XML files.",
        sources="folders such as VOCdevkit/VOC2007",
        example="VOCdevkit/VOC2007 shards/voc07 --split trainval",
        settings=Voc,
        opener=f"{_HERE}.voc:open_voc",
    ),
    ImportFormat(
        name="yolo",
        help="YOLO's text files, by their data.yaml.",
        sources="data.yaml files",
        example="helmets/data.yaml shards/helmets --split train",
        settings=Yolo,
        opener=f"{_HERE}.yolo:open_yolo",
    ),
    ImportFormat(
        name="roboflow",
        help="A Roboflow export as COCO, YOLO or VOC.",
        sources="folders of exports",
        example="aquarium shards/aquarium-train --split train",
        settings=Roboflow,
        opener=f"{_HERE}.roboflow:open_roboflow",
    ),
    ImportFormat(
        name="vqa",
        help="Questions about images with answers: VQAv2, OK-VQA and others of their shape.",
        sources="files of questions and of annotations, in any order",
        example="v2_OpenEnded_mscoco_val2014_questions.json v2_mscoco_val2014_annotations.json "
        "shards/vqa-val --images val2014",
        settings=Questions,
        opener=f"{_HERE}.questions:open_questions",
        fits=_is_questions,
    ),
    ImportFormat(
        name="webdataset",
        help="WebDataset shards, packed anew into shards of even size.",
        sources="folders of shards, or single .tar files",
        example="curated shards/even --samples-per-shard 5000",
        settings=WebDataset,
        opener=f"{_HERE}.webdataset:open_webdataset",
    ),
)
FORMATS: dict[str, ImportFormat] = {known.name: known for known in _ALL}


def import_format(name: str) -> ImportFormat:
    """The format of that name. Raises :class:`ConfigurationError`, which lists the known ones."""
    if name not in FORMATS:
        raise ConfigurationError(
            f"'{name}' is not a format of data: use one of {', '.join(FORMATS)}"
        )
    return FORMATS[name]

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
    SegmentCaptions,
    Table,
    VideoCaptions,
    VideoClasses,
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


def _is_msrvtt(document: Mapping[str, Any]) -> bool:
    return {"caption", "video_id"} <= _first(document, "sentences").keys()


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
        name="kinetics",
        help="Kinetics: its csv beside the clips, or a folder of clips for each class.",
        sources="csv files with label, youtube_id, time_start, time_end; or folders of folders",
        example="k400/train.csv shards/k400 --videos k400/train --short-side 256 --fps 30",
        settings=VideoClasses,
        opener=f"{_HERE}.video_classes:open_kinetics",
    ),
    ImportFormat(
        name="mmaction",
        help="mmaction's lists of videos, a path and a class number a line.",
        sources=".txt lists",
        example="train_list.txt shards/actions --videos clips --classes names.txt",
        settings=VideoClasses,
        opener=f"{_HERE}.video_classes:open_mmaction",
    ),
    ImportFormat(
        name="ucf101",
        help="UCF101's split lists.",
        sources="trainlist0N.txt or testlist0N.txt",
        example="ucf/trainlist01.txt shards/ucf101 --videos ucf/UCF-101",
        settings=VideoClasses,
        opener=f"{_HERE}.video_classes:open_ucf101",
    ),
    ImportFormat(
        name="hmdb51",
        help="HMDB51's split files; FILE is the training part, FILE#2 the test part.",
        sources="<class>_test_split<n>.txt files",
        example="hmdb/run_test_split1.txt hmdb/walk_test_split1.txt shards/hmdb51",
        settings=VideoClasses,
        opener=f"{_HERE}.video_classes:open_hmdb51",
    ),
    ImportFormat(
        name="ssv2",
        help="Something-Something v2's json of templates.",
        sources="something-something-v2-train.json or -validation.json",
        example="ssv2/something-something-v2-train.json shards/ssv2 --videos ssv2/videos",
        settings=VideoClasses,
        opener=f"{_HERE}.video_classes:open_ssv2",
    ),
    ImportFormat(
        name="msrvtt",
        help="MSR-VTT's json of sentences, or JSFUSION's csv: the test set 1K-A.",
        sources="MSRVTT_data.json, or MSRVTT_JSFUSION_test.csv",
        example="MSRVTT_JSFUSION_test.csv shards/msrvtt-1ka --videos msrvtt/videos",
        settings=VideoCaptions,
        opener=f"{_HERE}.video_captions:open_msrvtt",
        fits=_is_msrvtt,
    ),
    ImportFormat(
        name="msvd",
        help="MSVD's list of descriptions, a video and a caption a line.",
        sources="AllVideoDescriptions.txt",
        example="AllVideoDescriptions.txt shards/msvd --videos YouTubeClips",
        settings=VideoCaptions,
        opener=f"{_HERE}.video_captions:open_msvd",
    ),
    ImportFormat(
        name="didemo",
        help="DiDeMo's json of descriptions with times.",
        sources="train_data.json, val_data.json or test_data.json",
        example="test_data.json shards/didemo --videos didemo",
        settings=SegmentCaptions,
        opener=f"{_HERE}.video_captions:open_didemo",
    ),
    ImportFormat(
        name="activitynet",
        help="ActivityNet Captions' json of sentences with times.",
        sources="train.json, val_1.json or val_2.json",
        example="val_1.json shards/activitynet --videos activitynet",
        settings=SegmentCaptions,
        opener=f"{_HERE}.video_captions:open_activitynet",
    ),
    ImportFormat(
        name="webvid",
        help="WebVid's csv beside the videos; shards of videos are webdataset.",
        sources="results_2M_train.csv",
        example="results_2M_val.csv shards/webvid --videos webvid --short-side 256",
        settings=VideoCaptions,
        opener=f"{_HERE}.video_captions:open_webvid",
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

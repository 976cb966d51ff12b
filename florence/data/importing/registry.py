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
    ClassFolders,
    CocoCaptions,
    ImportSettings,
    Karpathy,
    Questions,
    Table,
    WebDataset,
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
        fits: for a ``.json`` file: whether a document is of this format.
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

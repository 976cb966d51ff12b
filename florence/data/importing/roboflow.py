"""Exports of Roboflow: its folders train, valid and test in COCO's, YOLO's or VOC's form."""

from __future__ import annotations

from collections.abc import Sequence

from florence.config.storage import S3Settings
from florence.data.importing.coco_boxes import open_boxes
from florence.data.importing.rows import Source
from florence.data.importing.settings import BoxSettings, Roboflow, Voc, Yolo, YoloSplit
from florence.data.importing.voc import open_voc
from florence.data.importing.yolo import open_yolo
from florence.errors import DataError
from florence.storage import open_storage

_COCO = "_annotations.coco.json"
_YOLO_SPLITS = {"train": YoloSplit.TRAIN, "valid": YoloSplit.VAL, "test": YoloSplit.TEST}


def open_roboflow(sources: Sequence[str], settings: Roboflow, s3: S3Settings | None) -> Source:
    """Open folders of exports; which form they are in is found out.

    Raises:
        DataError: a folder holds no export, or not this split.
    """
    common = {
        **{name: getattr(settings, name) for name in BoxSettings.model_fields},
        "name": settings.name or "roboflow",
    }
    split = settings.split.value
    folders = [uri.rstrip("/") for uri in sources]
    forms = {_form(folder, split, s3) for folder in folders}
    if len(forms) > 1:
        raise DataError(f"{sources[0]} and others are of different forms: import them one by one")
    (form,) = forms
    if form == "coco":
        files = [f"{folder}/{split}/{_COCO}" for folder in folders]
        return open_boxes(files, BoxSettings(**common), s3, name="roboflow")
    if form == "yolo":
        yolo = Yolo(**common, split=_YOLO_SPLITS[split])
        return open_yolo([f"{folder}/data.yaml" for folder in folders], yolo, s3)
    # Its VOC export writes corners as lines between pixels, counted from 0.
    voc = Voc(**common, first_pixel=0)
    return open_voc([f"{folder}/{split}" for folder in folders], voc, s3)


def _form(folder: str, split: str, s3: S3Settings | None) -> str:
    keys = {entry.key for entry in open_storage(folder, s3).list()}
    if f"{split}/{_COCO}" in keys:
        return "coco"
    if "data.yaml" in keys:
        return "yolo"
    if any(key.startswith(f"{split}/") and key.endswith(".xml") for key in keys):
        return "voc"
    raise DataError(
        f"{folder} holds no export of Roboflow with a split '{split}' ({split}/{_COCO}, data.yaml "
        f"or {split}/*.xml): check the path and --split"
    )

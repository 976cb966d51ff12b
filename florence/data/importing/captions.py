"""Images with several captions each: Karpathy's JSON of COCO and Flickr30k, and COCO's own.

The first caption becomes the ``.txt``, from which training reads; all of them are ``captions`` of
the ``.json``, from which retrieval is evaluated. The JSON is held in memory while it is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from florence.config.storage import S3Settings
from florence.data.importing.documents import objects, read_documents
from florence.data.importing.rows import BrokenRow, ImageFolder, Row, Source, split_uri
from florence.data.importing.settings import CocoCaptions, Karpathy
from florence.errors import DataError


def open_karpathy(sources: Sequence[str], settings: Karpathy, s3: S3Settings | None) -> Source:
    """Open Karpathy's JSON; only images of the split are rows.

    Raises:
        DataError: a file is missing, is no such JSON, or has no image of the split.
    """
    documents, identity = read_documents(sources, s3)
    split = settings.split.value
    splits = {"train": ("train", "restval"), "all": None}.get(split, (split,))
    chosen = [
        (uri, number, image)
        for uri, document in documents
        for number, image in enumerate(objects(document, "images", uri))
        if splits is None or image.get("split") in splits
    ]
    if not chosen:
        known = {str(i.get("split")) for uri, d in documents for i in objects(d, "images", uri)}
        raise DataError(
            f"{sources[0]} has no image of split '{split}', but of {', '.join(sorted(known))}"
        )

    def rows() -> Iterator[Row | BrokenRow]:
        for uri, number, image in chosen:
            folder = ImageFolder(settings.images or split_uri(uri)[0], s3)
            name = f"{image.get('filepath', '')}/{image.get('filename', '')}".lstrip("/")
            sentences = image.get("sentences")
            captions = [
                str(s["raw"]).strip()
                for s in (sentences if isinstance(sentences, list) else [])
                if isinstance(s, Mapping) and str(s.get("raw", "")).strip()
            ]
            meta = {k: image[k] for k in ("imgid", "cocoid", "filename", "split") if k in image}
            yield _row(f"{uri} image {image.get('imgid', number)}", folder, name, captions, meta)

    return _source(sources, [identity, split], rows)


def open_coco_captions(
    sources: Sequence[str], settings: CocoCaptions, s3: S3Settings | None
) -> Source:
    """Open COCO's captions; captions are in the order of their ids.

    Raises:
        DataError: a file is missing or no such JSON.
    """
    documents, identity = read_documents(sources, s3)
    opened = []
    for uri, document in documents:
        captions: dict[Any, list[tuple[Any, str]]] = {}
        for number, annotation in enumerate(objects(document, "annotations", uri)):
            if isinstance(annotation.get("caption"), str) and annotation["caption"].strip():
                order = annotation.get("id", number)
                listed = captions.setdefault(annotation.get("image_id"), [])
                listed.append((order, annotation["caption"].strip()))
        opened.append((uri, objects(document, "images", uri), captions))

    def rows() -> Iterator[Row | BrokenRow]:
        for uri, images, captions in opened:
            folder = ImageFolder(settings.images or split_uri(uri)[0], s3)
            for number, image in enumerate(images):
                name = str(image.get("file_name", ""))
                ordered = sorted(captions.get(image.get("id"), []), key=lambda c: c[0])
                meta = {"imgid": image.get("id"), "filename": name}
                where = f"{uri} image {image.get('id', number)}"
                yield _row(where, folder, name, [text for _, text in ordered], meta)

    return _source(sources, identity, rows)


def _row(
    where: str, folder: ImageFolder, name: str, captions: list[str], meta: Mapping[str, Any]
) -> Row | BrokenRow:
    if not captions:
        return BrokenRow(where, "has no caption: add one or remove the image")
    try:
        image = folder.find(name)
    except ValueError as error:
        return BrokenRow(where, str(error))
    return Row(
        where=where,
        source=name,
        image=image,
        text=captions[0],
        meta={**meta, "captions": captions},
    )


def _source(sources: Sequence[str], identity: Any, rows: Any) -> Source:
    name = split_uri(sources[0])[1].rpartition(".")[0]
    return Source(name=name, identity=identity, rows=rows)

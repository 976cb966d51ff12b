"""Visual Genome's region_descriptions.json: images with a sentence about each of their regions.

An image's sentences become its captions, each once and in the order of the file; where the regions
lie is left out. The file is read piece by piece, and its sentences are held while it is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from florence.config.storage import S3Settings
from florence.data.importing.coco_boxes import find_first
from florence.data.importing.json_stream import outline, read_items
from florence.data.importing.rows import (
    BrokenRow,
    ImageFolder,
    Row,
    Source,
    fingerprint,
    split_uri,
    stored_file,
)
from florence.data.importing.settings import Regions
from florence.data.importing.visual_genome import image_names
from florence.errors import DataError
from florence.storage import Entry, Storage

_Listed = list[tuple[int | str, tuple[str, ...]]]


def open_regions(sources: Sequence[str], settings: Regions, s3: S3Settings | None) -> Source:
    """Open ``region_descriptions.json``; images lie in VG_100K and VG_100K_2, or in the images'
    folder itself.

    Raises:
        DataError: a file is missing or is not of this form.
    """
    files = [stored_file(uri, s3) for uri in sources]
    for uri, (storage, entry) in zip(sources, files, strict=True):
        first = outline(storage, entry).get("", [None])[0]
        if not isinstance(first, Mapping) or "regions" not in first:
            raise DataError(
                f"{uri} is no list of images with 'regions': give region_descriptions.json"
            )

    @cache
    def read(number: int) -> tuple[_Listed, list[BrokenRow]]:
        return _read(sources[number], *files[number])

    def rows() -> Iterator[Row | BrokenRow]:
        for number, uri in enumerate(sources):
            images = ImageFolder(settings.images or split_uri(uri)[0], s3)
            listed, strays = read(number)
            for image_id, captions in listed:
                where = f"{uri} image {image_id}"
                if not captions:
                    yield BrokenRow(where, "has no phrase: add one or remove the image")
                    continue
                yield Row(
                    where=where,
                    source=f"{image_id}.jpg",
                    image=find_first(images, image_names(image_id)),
                    text=captions[0],
                    meta={"imgid": image_id, "captions": captions},
                )
            yield from strays

    return Source(
        name=split_uri(sources[0])[1].rpartition(".")[0],
        identity=[fingerprint([entry]) for _, entry in files],
        rows=rows,
    )


def _read(uri: str, storage: Storage, entry: Entry) -> tuple[_Listed, list[BrokenRow]]:
    """Images with their sentences, and what cannot be used."""
    found: _Listed = []
    strays: list[BrokenRow] = []
    seen: set[int | str] = set()

    def take(item: Any) -> None:
        regions = item.get("regions") if isinstance(item, Mapping) else None
        image_id = _image_id(item, regions)
        if image_id is None:
            number = len(found) + len(strays)
            strays.append(BrokenRow(f"{uri} image {number}", "has no image_id: give it one"))
        elif image_id in seen:
            strays.append(BrokenRow(f"{uri} image {image_id}", "is listed twice: remove the copy"))
        else:
            seen.add(image_id)
            found.append((image_id, _phrases(regions)))

    read_items(storage, entry, {"item": take})
    return found, strays


def _image_id(item: Any, regions: Any) -> int | str | None:
    """An image's number: version 1.2 has it as ``id``, and as ``image_id`` of every region."""
    if not isinstance(item, Mapping):
        return None
    first = regions[0] if isinstance(regions, list) and regions else {}
    of_region = first.get("image_id") if isinstance(first, Mapping) else None
    known = (item.get("image_id"), of_region, item.get("id"))
    return next((each for each in known if isinstance(each, int | str)), None)


def _phrases(regions: Any) -> tuple[str, ...]:
    texts = [
        each["phrase"].strip()
        for each in (regions if isinstance(regions, list) else [])
        if isinstance(each, Mapping) and isinstance(each.get("phrase"), str)
    ]
    return tuple(dict.fromkeys(text for text in texts if text))

"""Images for evaluation, with classes or captions. All count, so a broken one is an error."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from florence.config.storage import S3Settings
from florence.data.archive import IMAGE_EXTENSIONS
from florence.data.builtin import resolve
from florence.data.images import BrokenImageError, decode
from florence.data.left_out import check_whole
from florence.data.manifest import CLASSES
from florence.data.opening import Share, alone
from florence.data.shards import BrokenSampleError, Need, ShardSet
from florence.data.transforms import eval_pixels, normalise
from florence.data.workers import Buffer, WorkerPool
from florence.errors import DataError
from florence.storage import Storage, checked_key, open_storage

Triple = tuple[float, float, float]

"""The file beside shards that names their classes: a JSON list by class number."""


class Images(Protocol):
    """Images by number."""

    def __len__(self) -> int:
        """How many there are."""

    def image(self, i: int) -> Image.Image:
        """Image ``i`` in RGB. Raises :class:`DataError` when it is broken; names it."""


@dataclass(frozen=True)
class StoredImages:
    """Images that are objects of a storage."""

    storage: Storage
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, i: int) -> Image.Image:
        """Image ``i`` in RGB. Raises :class:`DataError`."""
        try:
            return decode(self.storage.read(self.keys[i]))
        except BrokenImageError as error:
            raise DataError(
                f"{self.storage.url(self.keys[i])}: {error}: replace or remove it"
            ) from error


@dataclass(frozen=True)
class ShardImages:
    """The images of shards."""

    shards: ShardSet

    def __len__(self) -> int:
        return len(self.shards)

    def image(self, i: int) -> Image.Image:
        """Image ``i`` in RGB. Raises :class:`DataError`."""
        try:
            return decode(self.shards.read(i).image_bytes)
        except BrokenSampleError as error:
            raise DataError(f"{self.shards.uri}: {error}") from error
        except BrokenImageError as error:
            where = f"{self.shards.shard_of(i)}: sample {self.shards.key(i)}"
            raise DataError(f"{where}: {error}: replace or remove it") from error


class LabelledImages:
    """Images with class indices.

    Attributes:
        labels: int64 ``(N,)``.
        class_names: by class index: the sub-folders' names, or those that ``classes.json`` gives to
            the numbers in shards; None for shards without that.
    """

    def __init__(
        self, images: Images, labels: NDArray[np.int64], class_names: tuple[str, ...] | None = None
    ) -> None:
        self.images = images
        self.labels = labels
        self.class_names = class_names

    @classmethod
    def open(
        cls,
        uri: str,
        s3: S3Settings | None = None,
        *,
        share: Share = alone,
        allow_unindexed: bool = True,
    ) -> Self:
        """Shards with ``.cls`` members, or a folder with one sub-folder of images per class.

        Sub-folders get the class indices 0, 1, … in the order of their names. ``share`` and
        ``allow_unindexed`` are those of :meth:`florence.data.shards.ShardSet.open`.

        Raises:
            DataError: neither is there, or a class has no name; names the URI.
        """
        uri = resolve(uri)
        if not uri.endswith(".tar"):
            storage = open_storage(uri, s3)
            keys = share(lambda: [entry.key for entry in storage.list()])
            if not any(key.endswith(".tar") for key in keys):
                return cls._from_folders(storage, keys)
        shards = ShardSet.open(
            uri, s3, need=Need.CLASS, share=share, allow_unindexed=allow_unindexed
        )
        check_whole(shards)
        labels, names = shards.class_indices(), shards.class_names
        if names is not None and labels.max() >= len(names):
            raise DataError(
                f"{uri} has images of class {labels.max()}, but {CLASSES} names the classes "
                f"0 to {len(names) - 1}: name them all"
            )
        return cls(ShardImages(shards), labels, names)

    @classmethod
    def _from_folders(cls, storage: Storage, keys: Sequence[str]) -> Self:
        chosen = [key for key in keys if "/" in key and is_image(key)]
        if not chosen:
            raise DataError(
                f"{storage.uri} holds neither shards (*.tar) nor sub-folders of images, "
                "one per class: check the URI"
            )
        names = sorted({key.partition("/")[0] for key in chosen})
        number = {name: index for index, name in enumerate(names)}
        labels = np.array([number[key.partition("/")[0]] for key in chosen], np.int64)
        return cls(StoredImages(storage, tuple(chosen)), labels, tuple(names))

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        for i, label in enumerate(self.labels.tolist()):
            yield self.images.image(i), label

    def batches(
        self,
        *,
        resolution: int,
        mean: Triple,
        std: Triple,
        batch_size: int,
        workers: int = 0,
        indices: Sequence[int] | None = None,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images as :func:`image_batches` makes them, each with its int64 ``(B,)`` labels."""
        chosen = range(len(self)) if indices is None else indices
        labels = torch.from_numpy(self.labels[np.asarray(chosen, np.int64)])
        images = image_batches(
            self.images,
            resolution=resolution,
            mean=mean,
            std=std,
            batch_size=batch_size,
            workers=workers,
            indices=chosen,
        )
        start = 0
        for batch in images:
            yield batch, labels[start : start + len(batch)]
            start += len(batch)


@dataclass(frozen=True)
class CaptionedImages:
    """Images with one or more captions each, for retrieval."""

    images: Images
    captions: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.captions)

    @classmethod
    def from_shards(
        cls,
        uri: str,
        s3: S3Settings | None = None,
        *,
        share: Share = alone,
        allow_unindexed: bool = True,
    ) -> Self:
        """Shards; a sample has its text, or all of ``captions`` when its JSON member lists some.

        ``share`` and ``allow_unindexed`` are those of
        :meth:`florence.data.shards.ShardSet.open`; captions too are read by one process.

        Raises:
            DataError: no shards, or a sample is broken; names it.
        """
        shards = ShardSet.open(uri, s3, share=share, allow_unindexed=allow_unindexed)
        check_whole(shards)
        return cls(ShardImages(shards), share(partial(_captions, shards)))

    @classmethod
    def from_folder(cls, uri: str, s3: S3Settings | None = None) -> Self:
        """A folder of images, each with a ``.txt`` of the same name: one caption per line.

        Raises:
            DataError: there is no such pair, or an image lacks its text; names the file.
        """
        storage = open_storage(uri, s3)
        keys = [entry.key for entry in storage.list()]
        known = set(keys)
        images = [key for key in keys if is_image(key)]
        if not images:
            raise DataError(f"{uri} holds no images: check the URI")
        captions = []
        for key in images:
            text = f"{key.rpartition('.')[0]}.txt"
            if text not in known:
                raise DataError(
                    f"{storage.url(key)} has no captions: write them to {storage.url(text)}"
                )
            captions.append(_lines(storage, text))
        return cls(StoredImages(storage, tuple(images)), tuple(captions))

    @classmethod
    def from_karpathy(
        cls,
        uri: str,
        *,
        images: str | None = None,
        split: str = "test",
        s3: S3Settings | None = None,
    ) -> Self:
        """Karpathy's JSON for COCO or Flickr30k (science.md, section 1).

        Args:
            uri: the JSON file.
            images: the folder its file names lie in. Default: the JSON's own folder.
            split: ``train`` includes ``restval``, as the literature counts it.
            s3: where ``s3://`` is.

        Raises:
            DataError: the file is missing, not such a JSON, or has no image of the split.
        """
        folder, _, name = uri.rpartition("/")
        document = open_storage(folder or ".", s3).read(name)
        splits = ("train", "restval") if split == "train" else (split,)
        keys, captions = [], []
        try:
            for image in json.loads(document)["images"]:
                if image["split"] in splits:
                    key = f"{image.get('filepath', '')}/{image['filename']}".lstrip("/")
                    keys.append(checked_key(key))
                    captions.append(tuple(str(s["raw"]) for s in image["sentences"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{uri} is not a Karpathy JSON: {type(error).__name__} {error}"
            ) from error
        if not keys:
            raise DataError(f"{uri} has no image of split '{split}': check the split's name")
        storage = open_storage(images or folder or ".", s3)
        return cls(StoredImages(storage, tuple(keys)), tuple(captions))


@dataclass(frozen=True)
class _EvalBatches:
    """Makes batches of uint8 pixels in worker processes; an item is their shape."""

    images: Images
    indices: Sequence[int]
    batch_size: int
    resolution: int

    @property
    def buffer_size(self) -> int:
        return self.batch_size * 3 * self.resolution**2

    def make(self, number: int, buffer: Buffer) -> tuple[int, int, int, int]:
        start = number * self.batch_size
        chosen = self.indices[start : start + self.batch_size]
        shape = len(chosen), 3, self.resolution, self.resolution
        pixels = buffer[: math.prod(shape)].reshape(shape)
        for row, i in enumerate(chosen):
            pixels[row] = eval_pixels(self.images.image(i), self.resolution)
        return shape


def image_batches(
    images: Images,
    *,
    resolution: int,
    mean: Triple,
    std: Triple,
    batch_size: int,
    workers: int = 0,
    indices: Sequence[int] | None = None,
) -> Iterator[torch.Tensor]:
    """Images in order as evaluation sees them: float32 ``(B, 3, R, R)``, the last batch shorter.

    Args:
        images: any source.
        resolution: side R; short side resized to it, then the central square.
        mean, std: of the channels in [0, 1].
        batch_size: largest B.
        workers: processes that decode.
        indices: only these images, such as a rank's share. Default: all.

    Raises:
        DataError: an image is broken; names it.
    """
    chosen = range(len(images)) if indices is None else indices
    maker = _EvalBatches(images, chosen, batch_size, resolution)
    pool = WorkerPool(maker, range(-(-len(chosen) // batch_size)), workers=workers)
    try:
        for shape, buffer in pool:
            pixels = buffer[: math.prod(shape)].reshape(shape)
            yield normalise(torch.from_numpy(pixels), mean, std)
    finally:
        pool.close()


def _captions(shards: ShardSet) -> tuple[tuple[str, ...], ...]:
    captions = []
    for i in range(len(shards)):
        try:
            sample = shards.read(i)
        except BrokenSampleError as error:
            raise DataError(f"{shards.uri}: {error}") from error
        listed = sample.meta.get("captions")
        texts = [c for c in listed if isinstance(c, str)] if isinstance(listed, list) else []
        captions.append(tuple(texts) or (sample.text,))
    return tuple(captions)


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image that can be read."""
    return Path(name).suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS


def _lines(storage: Storage, key: str) -> tuple[str, ...]:
    try:
        lines = storage.read(key).decode().splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{storage.url(key)} is not UTF-8: {error.reason}") from error
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise DataError(f"{storage.url(key)} holds no caption")
    return found

"""What samples with classes and captions become: pure functions of the draw."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from florence.config import Augmentation
from florence.data.arena import Arena
from florence.data.captions import CaptionReader, captions_of
from florence.data.class_texts import ClassTextReader
from florence.data.classes import ClassReader
from florence.data.shards import Sample
from florence.data.stream import Draw
from florence.text.normalisation import text_label
from tests.florence.data.making import picture


def sample(seed: int = 0, **changes: Any) -> Sample:
    fields: dict[str, Any] = {
        "key": f"shard/{seed:05d}",
        "media_bytes": picture(seed),
        "media_type": "png",
        "text": "a first text",
        "label_id": 1,
        "class_index": 0,
        "short": False,
        "meta_bytes": b"",
    }
    return Sample(**{**fields, **changes})


def chance(key: str = "shard/0", *, seed: int = 0, epoch: int = 0) -> Draw:
    return Draw(seed, epoch, key)


def class_reader(**changes: Any) -> ClassReader:
    fields: dict[str, Any] = {
        "resolution": 16,
        "augmentation": Augmentation(),
        "numbers": np.array([4, 2], np.int64),
    }
    return ClassReader(**{**fields, **changes})


def batch_of(reader: Any, items: list[Any]) -> Any:
    arena = Arena(np.zeros(reader.bulk_bytes(len(items)), np.uint8))
    collated = reader.collate(items, arena)
    keys = tuple(map(str, range(len(items))))
    return reader.batch(collated, arena, torch.device("cpu"), keys, ())


def test_a_class_gets_its_label_and_an_image_its_operations() -> None:
    plain = class_reader().read(sample(class_index=1), chance())
    assert plain.label == 2
    assert plain.pixels.shape == (3, 16, 16)
    assert plain.share == 1.0
    changed = class_reader(operations=2, magnitude=9.0)
    results = [changed.read(sample(), chance(epoch=epoch)).pixels for epoch in (0, 0, 1)]
    assert (results[0] == results[1]).all()
    assert (results[0] != results[2]).any()


def test_an_unmixed_batch_is_its_images() -> None:
    reader = class_reader()
    items = [reader.read(sample(i, class_index=i % 2), chance(str(i))) for i in range(4)]
    batch = batch_of(reader, items)
    assert batch.labels.tolist() == batch.partners.tolist() == [4, 2, 4, 2]
    assert batch.shares.tolist() == [1.0] * 4
    assert len(batch.chunk(2)[1]) == 2


def test_mixed_images_are_the_mean_by_their_shares() -> None:
    reader, plain = class_reader(mixup=0.4), class_reader()
    items = [reader.read(sample(i, class_index=i % 2), chance(str(i))) for i in range(5)]
    assert len({item.share for item in items}) == 5
    mixed, whole = batch_of(reader, items), batch_of(plain, items)
    share = mixed.shares[:, None, None, None]
    torch.testing.assert_close(
        mixed.images, share * whole.images + (1 - share) * whole.images.roll(2, dims=0)
    )
    assert mixed.partners.tolist() == whole.labels.roll(2).tolist()
    again = reader.read(sample(3, class_index=1), chance("3"))
    assert again.share == items[3].share


def test_the_name_of_a_class_is_put_into_a_template_of_the_epoch() -> None:
    reader = ClassTextReader(
        names=("cat", "crane", "crane"),
        numbers=np.array([2, 0, 1], np.int64),
        templates=("a {}", "the {}"),
        resolution=16,
        augmentation=Augmentation(),
        context=16,
    )
    pairs = [reader.read(sample(class_index=1), chance(epoch=epoch)) for epoch in range(20)]
    assert {pair.text for pair in pairs} == {"a cat", "the cat"}
    assert {pair.label for pair in pairs} == {0}
    # Two classes of one name cannot be told apart by texts: one label.
    labels = {reader.read(sample(class_index=c), chance()).label for c in (0, 2)}
    assert labels == {1}


@pytest.mark.parametrize("by_image", [True, False])
def test_a_caption_is_drawn_for_every_epoch(by_image: bool) -> None:
    captions = ["one", "two", "three", "four"]
    meta = json.dumps({"captions": captions}).encode()
    reader = CaptionReader(
        by_image=by_image,
        captions_per_image=3,
        resolution=16,
        augmentation=Augmentation(),
        context=16,
    )
    pairs = [reader.read(sample(meta_bytes=meta), chance(epoch=epoch)) for epoch in range(40)]
    assert {pair.text for pair in pairs} == {"one", "two", "three"}
    assert pairs[7].text == reader.read(sample(meta_bytes=meta), chance(epoch=7)).text
    labels = {pair.label for pair in pairs}
    if by_image:
        copy = reader.read(sample(meta_bytes=meta, key="other/1"), chance("other/1"))
        other = reader.read(sample(1, meta_bytes=meta), chance("shard/1"))
        assert labels == {copy.label} != {other.label}
    else:
        assert labels == {text_label(text) for text in captions[:3]}


def test_a_sample_without_a_list_of_captions_has_its_text() -> None:
    assert captions_of(sample()) == ("a first text",)
    assert captions_of(sample(meta_bytes=b'{"captions": []}')) == ("a first text",)
    assert captions_of(sample(meta_bytes=b'{"captions": ["x", 3]}')) == ("x",)

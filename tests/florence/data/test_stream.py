"""The stream of batches: the same rows whatever makes them, and clean ends."""

from __future__ import annotations

import io
import json
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from florence.config import Augmentation, Loader, Text
from florence.data.arena import Arena
from florence.data.batch import Batch
from florence.data.hashing import mix
from florence.data.indexing import index_data
from florence.data.order import Order
from florence.data.pairs import PairBatch, PairReader
from florence.data.shards import Need, Sample, ShardSet
from florence.data.stream import SPARES, Draw, ShardBatches, ShardStream
from florence.data.transforms import normalise, train_pixels
from florence.errors import DataError, TransientError
from florence.storage import Storage
from florence.text.normalisation import hash_key, text_label
from florence.text.templates import draw, load_templates, render
from florence.text.tokenizer import END, tokenize
from tests.florence.data.making import WORDS, picture, sample, write_samples, write_shards

COUNT = 50


STEPS = 10
AUGMENTATION = Augmentation(scale_min=0.5, rotation=10, flip=True)


def stream_of(
    folder: Path | str,
    *,
    s3: Any = None,
    batch_size: int = 12,
    context: int = 77,
    cut_text: bool = True,
    exclude_short: bool = False,
    **loader: Any,
) -> ShardStream[Any, PairBatch]:
    reader = PairReader(
        resolution=16,
        augmentation=AUGMENTATION,
        templates=load_templates("digits"),
        context=context,
        cut_text=cut_text,
    )
    return ShardStream(
        ShardSet.open(str(folder), s3, text=Text(), exclude_short=exclude_short),
        reader,
        seed=3,
        batch_size=batch_size,
        loader=Loader(**{"workers": 0, "shuffle_window": 256, **loader}),
    )


def read(
    stream: ShardStream[Any, PairBatch],
    *,
    rank: int = 0,
    size: int = 1,
    start: int = 0,
    stop: int = STEPS,
) -> list[PairBatch]:
    with stream.batches(rank=rank, size=size, start=start, stop=stop) as batches:
        return list(batches)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, COUNT, 20)
    index_data(str(folder))
    return folder


def equal(a: PairBatch, b: PairBatch) -> bool:
    tensors = zip((a.images, a.input_ids, a.labels), (b.images, b.input_ids, b.labels), strict=True)
    same = (a.keys, a.broken) == (b.keys, b.broken)
    return same and all(torch.equal(x, y) for x, y in tensors)


@pytest.fixture(scope="module")
def reference(folder: Path) -> list[PairBatch]:
    return read(stream_of(folder))


def expected_rows(step: int) -> list[tuple[int, int]]:
    """The sample and the epoch of each row of a step of twelve, sorted by sample."""
    order = Order(COUNT, 3, 256)
    positions = range(step * 12, step * 12 + 12)
    rows = [(int(order.samples(p, p + 1)[0]), p, p // COUNT) for p in positions]
    return [(sample, epoch) for sample, _, epoch in sorted(rows)]


def test_rows_are_what_the_definition_says(reference: list[PairBatch]) -> None:
    templates = load_templates("digits")
    assert len(reference) == STEPS
    for step, batch in enumerate(reference):
        assert batch.images.dtype == torch.float32
        for row, (i, epoch) in enumerate(expected_rows(step)):
            text, key = WORDS[i % 5], f"{i // 20:05d}/{i:05d}"
            assert batch.keys[row] == key
            assert batch.labels[row] == text_label(text)
            if len(text.split()) <= 2:
                text = render(templates[draw(3, epoch, key, len(templates))], text)
            ids = tokenize([text])[0]
            length = batch.input_ids.shape[1]
            assert torch.equal(batch.input_ids[row], ids[:length])
            assert (ids[length:] == 0).all()
            crop = mix(3, 11, epoch, hash_key(key))
            pixels = train_pixels(picture(i), 16, AUGMENTATION, crop)
            expected = normalise(torch.from_numpy(pixels), AUGMENTATION.mean, AUGMENTATION.std)
            assert torch.equal(batch.images[row], expected)


def test_every_sample_once_per_epoch(folder: Path) -> None:
    """Batches that divide the epoch: every epoch's steps hold each sample once."""
    batches = read(stream_of(folder, batch_size=10), stop=15)
    epochs = [
        [key for batch in batches[start : start + 5] for key in batch.keys]
        for start in range(0, 15, 5)
    ]
    for keys in epochs:
        assert len(keys) == len(set(keys)) == COUNT
    assert epochs[0] != epochs[1]


def test_crops_and_templates_change_with_the_epoch(reference: list[Batch]) -> None:
    seen: dict[str, set[bytes]] = {}
    prompts: dict[str, set[bytes]] = {}
    for batch in reference:
        for row, key in enumerate(batch.keys):
            seen.setdefault(key, set()).add(batch.images[row].numpy().tobytes())
            ids = batch.input_ids[row]
            prompts.setdefault(key, set()).add(ids[: ids.argmax() + 1].numpy().tobytes())
    assert sum(map(len, seen.values())) == 120
    short = [key for key in prompts if int(key[-5:]) % 5 < 3]
    assert sum(len(prompts[key]) > 1 for key in short) > len(short) / 2
    assert all(len(prompts[key]) == 1 for key in prompts if key not in short)


@pytest.mark.parametrize("workers", [1, 3])
def test_worker_processes_change_nothing(folder, reference, workers: int) -> None:
    got = read(stream_of(folder, workers=workers, prefetch=2))
    assert len(got) == len(reference)
    assert all(equal(a, b) for a, b in zip(got, reference, strict=True))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_hold_the_rows_of_one_global_batch(folder, reference, world_size: int) -> None:
    ranks = [
        read(stream_of(folder, cut_text=False), rank=r, size=world_size) for r in range(world_size)
    ]
    for step, whole in enumerate(reference):
        parts = [rank[step] for rank in ranks]
        assert sum((p.keys for p in parts), ()) == whole.keys
        assert torch.equal(torch.cat([p.images for p in parts]), whole.images)
        assert torch.equal(torch.cat([p.labels for p in parts]), whole.labels)
        ids = torch.cat([p.input_ids for p in parts])
        assert ids.shape == (12, 77)
        assert torch.equal(ids[:, : whole.input_ids.shape[1]], whole.input_ids)
        assert (ids[:, whole.input_ids.shape[1] :] == 0).all()


@pytest.mark.parametrize(
    ("start", "world_size", "workers"), [(7, 1, 0), (3, 1, 3), (4, 2, 1), (10, 1, 2)]
)
def test_a_resume_goes_on_exactly(
    folder, reference, start: int, world_size: int, workers: int
) -> None:
    rank = world_size - 1
    rows = 12 // world_size
    stream = stream_of(folder, workers=workers, cut_text=False)
    got = read(stream, rank=rank, size=world_size, start=start)
    assert len(got) == 10 - start
    for batch, whole in zip(got, reference[start:], strict=True):
        assert batch.keys == whole.keys[rank * rows :]
        assert torch.equal(batch.images, whole.images[rank * rows :])


@pytest.mark.parametrize("budget", [1 << 20, 1 << 30])
def test_memory_and_prefetch_change_nothing(folder, reference, budget: int) -> None:
    got = read(stream_of(folder, cache_bytes=budget, prefetch=9))
    assert all(equal(a, b) for a, b in zip(got, reference, strict=True))


def pool_of(batches: ShardBatches[Any]) -> Any:
    assert batches._pool is not None
    return batches._pool


def test_a_killed_loader_is_an_error_and_the_next_one_goes_on(folder, reference) -> None:
    batches = stream_of(folder, workers=2, prefetch=1).batches(rank=0, size=1, start=0, stop=200)
    rows = iter(batches)
    assert equal(next(rows), reference[0])
    os.kill(pool_of(batches).pids[0], signal.SIGKILL)
    with pytest.raises(TransientError, match="-9"):
        list(rows)
    resumed = read(stream_of(folder), start=1)
    assert all(equal(a, b) for a, b in zip(resumed, reference[1:], strict=True))


def test_closing_early_leaves_no_process(folder: Path) -> None:
    batches = stream_of(folder, workers=2).batches(rank=0, size=1, start=0, stop=10_000)
    rows = iter(batches)
    next(rows)
    processes = list(pool_of(batches)._processes)
    assert len(processes) == 2
    batches.close()
    assert not any(p.is_alive() for p in processes)
    with pytest.raises(RuntimeError, match="once"):
        iter(batches)


def test_short_texts_are_left_out_on_request_and_no_template_is_used(folder: Path) -> None:
    got = read(stream_of(folder, exclude_short=True))
    texts = {WORDS[int(key[-5:]) % 5] for batch in got for key in batch.keys}
    assert texts == {WORDS[3], WORDS[4]}
    allowed = {tuple(row.tolist()) for row in tokenize([WORDS[3], WORDS[4]])}
    for batch in got:
        width = batch.input_ids.shape[1]
        assert {tuple(r.tolist()) for r in batch.input_ids} <= {row[:width] for row in allowed}


def test_long_texts_keep_their_end(tmp_path: Path) -> None:
    write_samples(tmp_path / "0.tar", [sample(i, txt=b"word " * 200) for i in range(4)])
    (batch,) = read(stream_of(tmp_path, batch_size=4, context=13), stop=1)
    assert batch.input_ids.shape == (4, 13)
    assert (batch.input_ids[:, -1] == END).all()


def test_the_same_from_s3(any_storage: Storage, s3_settings, folder, reference) -> None:
    for path in sorted(folder.glob("*")):
        any_storage.write(path.name, path)
    got = read(stream_of(any_storage.uri, s3=s3_settings, workers=2))
    assert all(equal(a, b) for a, b in zip(got, reference, strict=True))


# Broken data


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    """Samples 7, 23, 24 and 26 of 50 cannot be decoded; three of them are in the second shard."""
    folder = tmp_path_factory.mktemp("broken")
    for number in range(3):
        chosen = range(number * 20, min(number * 20 + 20, COUNT))
        write_samples(
            folder / f"{number:05d}.tar",
            [sample(i, **({"png": b"?"} if i in (7, 23, 24, 26) else {})) for i in chosen],
        )
    index_data(str(folder))
    return folder


BAD_KEYS = {"00000/00007", "00001/00023", "00001/00024", "00001/00026"}


def test_broken_samples_are_replaced_alike_everywhere_and_told(broken, reference) -> None:
    whole = read(stream_of(broken))
    assert sum(len(batch.broken) for batch in whole) == sum(
        key in BAD_KEYS for batch in reference for key in batch.keys
    )
    for got, plain in zip(whole, reference, strict=True):
        assert not BAD_KEYS & set(got.keys)
        changed = [r for r in range(12) if got.keys[r] != plain.keys[r]]
        assert changed == [r for r in range(12) if plain.keys[r] in BAD_KEYS]
        told = {f"{shard.removesuffix('.tar')}/{key}" for shard, key, _ in got.broken}
        assert told == {plain.keys[r] for r in changed}
        for row in set(range(12)) - set(changed):
            assert torch.equal(got.images[row], plain.images[row])
    halves = [read(stream_of(broken, workers=2), rank=r, size=2) for r in (0, 1)]
    for step, batch in enumerate(whole):
        assert halves[0][step].keys + halves[1][step].keys == batch.keys
        assert halves[0][step].broken + halves[1][step].broken == batch.broken


def cut_off(folder: Path, shards: int, *, indexed: bool) -> str:
    """A data set whose second shard ends in its middle."""
    write_shards(folder, 4 * shards, 4)
    shard = folder / "00001.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    if indexed:
        index_data(str(folder))
    return str(shard)


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("without", [[], ["manifest.json"]])
def test_shards_that_are_cut_off_are_counted_and_named(
    tmp_path: Path, indexed: bool, without: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    shard = cut_off(tmp_path, 4, indexed=indexed)
    for name in without:
        (tmp_path / name).unlink(missing_ok=True)
    found = rf"1 of 4 shards are cut off or damaged .*{shard}: .*is cut off"
    with pytest.raises(DataError, match=rf"{found}.*maxBadFraction=0\.2 allows.*data check"):
        stream_of(tmp_path, max_bad_fraction=0.2)
    assert len(stream_of(tmp_path, max_bad_fraction=0.25)) < 16
    assert re.search(found, caplog.text)


def test_a_manifest_that_knew_no_damage_is_not_relied_on(tmp_path: Path) -> None:
    cut_off(tmp_path, 4, indexed=True)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    for shard in manifest["shards"]:
        del shard["damage"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="1 of 4 shards are cut off"):
        stream_of(tmp_path)


@pytest.mark.parametrize("content", [b"no tar at all" * 1000, b""], ids=["other", "empty"])
def test_a_file_that_is_no_tar_has_lost_samples_too(tmp_path: Path, content: bytes) -> None:
    write_shards(tmp_path, 4, 4)
    (tmp_path / "1.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"1 of 2 shards .*1\.tar: is not an uncompressed tar"):
        stream_of(tmp_path, batch_size=2)


def test_samples_that_are_left_out_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_samples(tmp_path / "0.tar", [sample(i, **({"txt": b""} if i else {})) for i in range(3)])
    stream_of(tmp_path, batch_size=1)
    assert "2 of 3 images have no text and are left out" in caplog.text


def test_a_batch_that_is_larger_than_the_data_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shards(tmp_path, 4, 4)
    stream_of(tmp_path, batch_size=4)
    assert "batchSize" not in caplog.text
    stream_of(tmp_path, batch_size=5)
    assert f"batchSize 5 is more than the 4 samples of {tmp_path}" in caplog.text


def test_a_shard_damaged_under_the_run_is_told_too(tmp_path: Path) -> None:
    write_shards(tmp_path, COUNT, 20)
    index_data(str(tmp_path))
    shard = tmp_path / "00002.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    broken = [each for batch in read(stream_of(tmp_path), stop=20) for each in batch.broken]
    assert {each.shard for each in broken} == {"00002.tar"}
    assert "the shard changed" in broken[0].reason


def test_nothing_but_broken_samples(tmp_path: Path) -> None:
    write_samples(tmp_path / "0.tar", [sample(i, png=b"?") for i in range(3)])
    with pytest.raises(DataError, match=f"{SPARES} samples in a row are broken"):
        read(stream_of(tmp_path, batch_size=2))


def test_a_shard_deleted_under_the_run_names_it(tmp_path: Path) -> None:
    write_shards(tmp_path, COUNT, 20)
    index_data(str(tmp_path))
    stream = stream_of(tmp_path, workers=1)
    (tmp_path / "00001.tar").unlink()
    with pytest.raises(DataError, match=r"00001\.tar does not exist"):
        read(stream)


@dataclass(frozen=True, kw_only=True)
class BoxBatch(Batch):
    """Images of their own sizes, with boxes."""

    images: tuple[torch.Tensor, ...]
    boxes: tuple[torch.Tensor, ...]


class BoxReader:
    """What a detector reads: whole images of any size, and boxes from the json."""

    def bulk_bytes(self, rows: int) -> int:
        return rows * 1_500  # more than some images of a batch need, and less than others

    def read(self, sample: Sample, draw: Draw) -> tuple[Any, Any]:
        with Image.open(io.BytesIO(sample.media_bytes)) as image:
            pixels = np.asarray(image.convert("RGB"))
        boxes = np.array(sample.meta["boxes"], np.float32).reshape(-1, 4)
        return pixels[:, :: 1 if draw.number(5) % 2 else -1], boxes

    def collate(self, items: Any, arena: Arena) -> Any:
        return [(arena.put(pixels), arena.put(boxes)) for pixels, boxes in items]

    def batch(self, collated: Any, arena: Arena, device: Any, keys: Any, broken: Any) -> BoxBatch:
        rows = [[torch.from_numpy(arena.array(each).copy()) for each in row] for row in collated]
        images, boxes = zip(*rows, strict=True)
        return BoxBatch(keys=keys, broken=broken, images=images, boxes=boxes)


def test_samples_may_be_anything_of_any_size(tmp_path: Path) -> None:
    """The order, the workers, ranks and resumes serve images of other sizes with boxes as well."""
    write_samples(
        tmp_path / "0.tar",
        [
            sample(
                i,
                png=picture(i, width=10 + 3 * i, height=30 - i),
                json=json.dumps({"boxes": [[0, 0, i, 1]] * (i % 4)}).encode(),
            )
            for i in range(20)
        ],
    )

    def stream(workers: int) -> ShardStream[Any, BoxBatch]:
        shards = ShardSet.open(str(tmp_path), need=Need.IMAGE)
        loader = Loader(workers=workers, shuffle_window=64)
        return ShardStream(shards, BoxReader(), seed=1, batch_size=6, loader=loader)

    def read_all(workers: int, **part: int) -> list[BoxBatch]:
        options = {"rank": 0, "size": 1, "start": 0, "stop": 8} | part
        with stream(workers).batches(**options) as batches:
            return list(batches)

    reference = read_all(0)
    for batch in reference:
        for key, image, boxes in zip(batch.keys, batch.images, batch.boxes, strict=True):
            i = int(key.rpartition("/")[2])
            assert image.shape == (30 - i, 10 + 3 * i, 3)
            assert boxes.tolist() == [[0, 0, i, 1]] * (i % 4)
    halves = [read_all(2, rank=rank, size=2, start=3) for rank in (0, 1)]
    for whole, first, second in zip(reference[3:], *halves, strict=True):
        assert first.keys + second.keys == whole.keys
        for one, other in zip(first.images + second.images, whole.images, strict=True):
            assert torch.equal(one, other)

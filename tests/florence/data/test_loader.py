"""The stream of batches: the same rows whatever makes them, and clean ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from florence.data.loader import SPARES, BrokenLedger, TrainingLoader

from florence.data.batch import Batch
from florence.data.hashing import mix
from florence.data.manifest import index_data
from florence.data.order import Order
from florence.data.shards import ShardSet
from florence.data.transforms import normalise, train_pixels
from florence.errors import ConfigurationError, DataError, TryAgainError
from florence.storage import Storage
from florence.tasks.pretrain.settings import Pretrain
from florence.text.identity import hash_key, text_label
from florence.text.templates import draw, load_templates, render
from florence.text.tokenizer import END, tokenize
from tests.florence.data.making import WORDS, picture, sample, write_samples, write_shards

COUNT = 50


def settings_of(folder: Path | str, **changes: Any) -> Pretrain:
    loader = {"workers": 0, "shuffle_window": 256, **changes.pop("loader", {})}
    defaults: dict[str, Any] = {
        "data": str(folder),
        "batch_size": 12,
        "steps": 10,
        "resolution": 16,
        "seed": 3,
        "augmentation": {"scale_min": 0.5, "rotation": 10, "flip": True},
        "text": {"templates": "digits"},
    }
    return Pretrain(**{**defaults, "loader": loader, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, COUNT, 20)
    index_data(str(folder))
    return folder


def opened(settings: Pretrain, s3: Any = None) -> ShardSet:
    short = settings.exclude_augmented
    return ShardSet.open(settings.data, s3, text=settings.text, exclude_short=short)


def batches_of(settings: Pretrain, s3: Any = None, **options: Any) -> list[Batch]:
    shards = opened(settings, s3)
    with TrainingLoader(shards, settings, **options) as loader:
        return list(loader)


def equal(a: Batch, b: Batch) -> bool:
    tensors = zip((a.images, a.ids, a.labels), (b.images, b.ids, b.labels), strict=True)
    same = (a.keys, a.bad, a.position) == (b.keys, b.bad, b.position)
    return same and all(torch.equal(x, y) for x, y in tensors)


@pytest.fixture(scope="module")
def reference(folder: Path) -> list[Batch]:
    return batches_of(settings_of(folder))


def test_rows_are_what_the_definition_says(folder: Path, reference: list[Batch]) -> None:
    settings = settings_of(folder)
    order = Order(COUNT, settings.seed, 256)
    templates = load_templates("digits")
    assert len(reference) == settings.steps
    for step, batch in enumerate(reference):
        assert batch.position == step * 12
        assert batch.images.dtype == torch.float32
        for row in range(12):
            epoch = (batch.position + row) // COUNT
            (i,) = order.samples(batch.position + row, batch.position + row + 1).tolist()
            text, key = WORDS[i % 5], f"{i // 20:05d}/{i:05d}"
            assert batch.keys[row] == key
            assert batch.labels[row] == text_label(text)
            if len(text.split()) <= 2:
                text = render(templates[draw(3, epoch, key, len(templates))], text)
            ids = tokenize([text])[0]
            length = batch.ids.shape[1]
            assert torch.equal(batch.ids[row], ids[:length])
            assert (ids[length:] == 0).all()
            crop = mix(3, 11, epoch, hash_key(key))
            pixels = train_pixels(picture(i), 16, settings.augmentation, crop)
            a = settings.augmentation
            expected = normalise(torch.from_numpy(pixels), a.mean, a.std)
            assert torch.equal(batch.images[row], expected)


def test_every_sample_once_per_epoch(reference: list[Batch]) -> None:
    keys = [key for batch in reference for key in batch.keys]
    for epoch in range(len(keys) // COUNT):
        assert len(set(keys[epoch * COUNT : (epoch + 1) * COUNT])) == COUNT
    assert keys[:COUNT] != keys[COUNT : 2 * COUNT]


def test_crops_and_templates_change_with_the_epoch(reference: list[Batch]) -> None:
    seen: dict[str, set[bytes]] = {}
    prompts: dict[str, set[bytes]] = {}
    for batch in reference:
        for row, key in enumerate(batch.keys):
            seen.setdefault(key, set()).add(batch.images[row].numpy().tobytes())
            ids = batch.ids[row]
            prompts.setdefault(key, set()).add(ids[: ids.argmax() + 1].numpy().tobytes())
    assert sum(map(len, seen.values())) == 120
    short = [key for key in prompts if int(key[-5:]) % 5 < 3]
    assert sum(len(prompts[key]) > 1 for key in short) > len(short) / 2
    assert all(len(prompts[key]) == 1 for key in prompts if key not in short)


@pytest.mark.parametrize("workers", [1, 3])
def test_worker_processes_change_nothing(folder, reference, workers: int) -> None:
    got = batches_of(settings_of(folder, loader={"workers": workers, "prefetch": 2}))
    assert len(got) == len(reference)
    assert all(equal(a, b) for a, b in zip(got, reference, strict=True))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_hold_the_rows_of_one_global_batch(folder, reference, world_size: int) -> None:
    ranks = [
        batches_of(settings_of(folder), rank=r, world_size=world_size, cut_text=False)
        for r in range(world_size)
    ]
    for step, whole in enumerate(reference):
        parts = [rank[step] for rank in ranks]
        assert sum((p.keys for p in parts), ()) == whole.keys
        assert torch.equal(torch.cat([p.images for p in parts]), whole.images)
        assert torch.equal(torch.cat([p.labels for p in parts]), whole.labels)
        ids = torch.cat([p.ids for p in parts])
        assert ids.shape == (12, 77)
        assert torch.equal(ids[:, : whole.ids.shape[1]], whole.ids)
        assert (ids[:, whole.ids.shape[1] :] == 0).all()
        assert [p.position for p in parts] == [
            whole.position + 12 // world_size * r for r in range(world_size)
        ]


@pytest.mark.parametrize(
    ("start", "world_size", "workers"), [(7, 1, 0), (3, 1, 3), (4, 2, 1), (10, 1, 2)]
)
def test_a_resume_goes_on_exactly(
    folder, reference, start: int, world_size: int, workers: int
) -> None:
    rank = world_size - 1
    rows = 12 // world_size
    got = batches_of(
        settings_of(folder, loader={"workers": workers}),
        start_step=start, rank=rank, world_size=world_size, cut_text=False,
    )  # fmt: skip
    assert len(got) == 10 - start
    for batch, whole in zip(got, reference[start:], strict=True):
        assert batch.keys == whole.keys[rank * rows :]
        assert torch.equal(batch.images, whole.images[rank * rows :])


@pytest.mark.parametrize("budget", [1 << 20, 1 << 30])
def test_memory_and_prefetch_change_nothing(folder, reference, budget: int) -> None:
    got = batches_of(settings_of(folder, loader={"cache_bytes": budget, "prefetch": 9}))
    assert all(equal(a, b) for a, b in zip(got, reference, strict=True))


def test_a_killed_loader_is_an_error_and_the_next_one_goes_on(folder, reference) -> None:
    settings = settings_of(folder, loader={"workers": 2, "prefetch": 1}, steps=200)
    loader = TrainingLoader(opened(settings), settings)
    stream = iter(loader)
    assert equal(next(stream), reference[0])
    assert loader._pool is not None
    os.kill(loader._pool.pids[0], signal.SIGKILL)
    with pytest.raises(TryAgainError, match="-9"):
        list(stream)
    resumed = batches_of(settings_of(folder), start_step=1)
    assert all(equal(a, b) for a, b in zip(resumed, reference[1:], strict=True))


def test_closing_early_leaves_no_process(folder: Path) -> None:
    settings = settings_of(folder, loader={"workers": 2}, steps=10_000)
    loader = TrainingLoader(opened(settings), settings)
    stream = iter(loader)
    next(stream)
    assert loader._pool is not None
    processes = list(loader._pool._processes)
    assert len(processes) == 2
    loader.close()
    assert not any(p.is_alive() for p in processes)
    with pytest.raises(RuntimeError, match="once"):
        iter(loader)


def test_short_texts_are_left_out_on_request_and_no_template_is_used(folder: Path) -> None:
    got = batches_of(settings_of(folder, exclude_augmented=True))
    texts = {WORDS[int(key[-5:]) % 5] for batch in got for key in batch.keys}
    assert texts == {WORDS[3], WORDS[4]}
    allowed = {tuple(row.tolist()) for row in tokenize([WORDS[3], WORDS[4]])}
    for batch in got:
        width = batch.ids.shape[1]
        assert {tuple(r.tolist()) for r in batch.ids} <= {row[:width] for row in allowed}


def test_long_texts_keep_their_end(tmp_path: Path) -> None:
    write_samples(tmp_path / "0.tar", [sample(i, txt=b"word " * 200) for i in range(4)])
    (batch,) = batches_of(settings_of(tmp_path, steps=1, batch_size=4), context=13)
    assert batch.ids.shape == (4, 13)
    assert (batch.ids[:, -1] == END).all()


def test_the_same_from_s3(any_storage: Storage, s3_settings, folder, reference) -> None:
    for path in sorted(folder.glob("*")):
        any_storage.write(path.name, path)
    settings = settings_of(any_storage.uri, loader={"workers": 2})
    got = batches_of(settings, s3_settings)
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


def test_broken_samples_are_replaced_alike_everywhere_and_counted(broken, reference) -> None:
    tolerant = {"loader": {"max_bad_fraction": 0.2}}
    whole = batches_of(settings_of(broken, **tolerant))
    assert sum(batch.bad for batch in whole) == sum(
        key in BAD_KEYS for batch in reference for key in batch.keys
    )
    for got, plain in zip(whole, reference, strict=True):
        assert not BAD_KEYS & set(got.keys)
        changed = [r for r in range(12) if got.keys[r] != plain.keys[r]]
        assert changed == [r for r in range(12) if plain.keys[r] in BAD_KEYS]
        assert len(changed) == got.bad
        for row in set(range(12)) - set(changed):
            assert torch.equal(got.images[row], plain.images[row])
    tolerant["loader"]["workers"] = 2
    halves = [batches_of(settings_of(broken, **tolerant), rank=r, world_size=2) for r in (0, 1)]
    for step, batch in enumerate(whole):
        assert halves[0][step].keys + halves[1][step].keys == batch.keys
        assert halves[0][step].bad + halves[1][step].bad == batch.bad


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_broken_samples_stop_the_stage_and_name_the_worst_shard(broken, workers) -> None:
    settings = settings_of(broken, loader={"workers": workers}, steps=1000)
    loader = TrainingLoader(opened(settings), settings)
    with pytest.raises(DataError, match=r"loader\.maxBadFraction=0\.01") as failure:
        list(loader)
    message = str(failure.value)
    assert message.startswith(str(broken))
    assert "worst is shard 00001.tar" in message
    assert "\n" not in message
    assert failure.value.exit_code == 3
    assert 100 <= loader.ledger.seen < 112
    assert loader._pool is not None
    assert loader._pool.pids == []


def test_a_shard_damaged_under_the_run_is_counted_too(tmp_path: Path) -> None:
    write_shards(tmp_path, COUNT, 20)
    index_data(str(tmp_path))
    shard = tmp_path / "00002.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(DataError, match=r"worst is shard 00002\.tar .*the shard changed"):
        batches_of(settings_of(tmp_path, steps=100))


def test_nothing_but_broken_samples(tmp_path: Path) -> None:
    write_samples(tmp_path / "0.tar", [sample(i, png=b"?") for i in range(3)])
    settings = settings_of(tmp_path, batch_size=2, loader={"max_bad_fraction": 1.0})
    with pytest.raises(DataError, match=f"{SPARES} samples in a row are broken"):
        batches_of(settings)


def test_a_shard_deleted_under_the_run_names_it(tmp_path: Path) -> None:
    write_shards(tmp_path, COUNT, 20)
    index_data(str(tmp_path))
    settings = settings_of(tmp_path, loader={"workers": 1})
    shards = opened(settings)
    (tmp_path / "00001.tar").unlink()
    with pytest.raises(DataError, match=r"00001\.tar does not exist"):
        list(TrainingLoader(shards, settings))


def test_the_ledger_waits_for_enough_samples_and_allows_the_fraction() -> None:
    ledger = BrokenLedger("uri", 0.1, after=100)
    ledger.add(50, [("a.tar", "1", "why")] * 10)
    with pytest.raises(DataError, match=r"10 of 99|11 of 100"):
        ledger.add(50, [("b.tar", "2", "because")])
    exact = BrokenLedger("uri", 0.1, after=100)
    exact.add(100, [("a.tar", "1", "why")] * 10)
    with pytest.raises(DataError, match=r"11 of 101 .*a\.tar with 10 \(1: why\)"):
        exact.add(1, [("b.tar", "2", "because")])


def test_wrong_settings_name_their_field(folder: Path) -> None:
    settings = settings_of(folder)
    with pytest.raises(ConfigurationError, match="batchSize=12 does not divide over 5"):
        TrainingLoader(opened(settings), settings, world_size=5)
    missing = settings_of(folder, text={"templates": "no/such/file"})
    with pytest.raises(ConfigurationError, match=r"text\.templates"):
        TrainingLoader(opened(missing), missing)

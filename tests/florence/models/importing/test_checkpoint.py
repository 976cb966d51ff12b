"""Checkpoint files: what is read, and what is refused without running it."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from florence.errors import DataError
from florence.models.importing.checkpoint import read_checkpoint

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_safetensors_are_read_whatever_the_file_is_called(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.bin")
    read = read_checkpoint(tmp_path / "model.bin")
    assert equal(dict(sorted(read.items())), dict(sorted(STATE.items())))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        collections.OrderedDict(STATE),
        {"model": STATE, "optimizer": {"state": {0: {"step": 3}}}, "epoch": 9},
        {"state_dict": {f"module.{name}": value for name, value in STATE.items()}},
        {"model": {"state_dict": {f"_orig_mod.{n}": v for n, v in STATE.items()}}, "lr": 0.1},
        STATE | {"version": "3"},
    ],
)
def test_states_are_found_in_what_training_programs_save(
    tmp_path: Path, zipped: bool, content: Any
) -> None:
    path = tmp_path / "model.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert equal(read_checkpoint(path), STATE)


class Bomb:
    """Unpickling this makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_needs_more_is_refused_by_name(tmp_path: Path, zipped: bool) -> None:
    target, path = tmp_path / "made", tmp_path / "model.pth"
    content = {"model": STATE, "config": Bomb(target)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    torch.load(path, weights_only=False)
    assert target.exists(), "the bomb must work"
    target.rmdir()
    with pytest.raises(DataError, match=r"model\.pth: reading it would call posix.mkdir") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_a_program_is_refused(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "ViT.pt"))
    with pytest.raises(DataError, match=r"ViT\.pt: it is a TorchScript program"):
        read_checkpoint(tmp_path / "ViT.pt")


@pytest.mark.parametrize("keep", [0, 3, 20, 100, -1])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "pickle"])
def test_a_cut_file_is_refused_in_one_line(tmp_path: Path, kind: str, keep: int) -> None:
    path = tmp_path / "model.pt"
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"model\.pt: ") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.ones(2)])
def test_a_file_without_a_state_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(DataError, match=r"model\.pt: no (dictionary of )?tensors"):
        read_checkpoint(tmp_path / "model.pt")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.pt: cannot be read: No such file"):
        read_checkpoint(tmp_path / "none.pt")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_checkpoint(tmp_path)


def test_a_pickle_of_another_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"a": [1.0]}))
    with pytest.raises(DataError, match=r"model\.pkl: "):
        read_checkpoint(tmp_path / "model.pkl")

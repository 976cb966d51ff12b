"""Read the tensors of a checkpoint file, and nothing that could run code."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from florence.errors import DataError

# Where training programs put the weights beside an optimizer's state, the best first.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "state_dict_ema", "model_ema")
# What distributed training and torch.compile put in front of every name.
_PREFIXES = ("module.", "_orig_mod.")


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name, on the CPU.

    Safetensors, or torch's format read with ``weights_only=True``: a pickle that asks for anything
    but tensors and plain containers is refused. A state inside a training program's dictionary is
    found, and prefixes that every name has are taken off.

    Raises:
        DataError: the file is missing, broken, unsafe, or holds no tensors; the message names it.
    """
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    # Safetensors begin with a length of 8 bytes, then JSON.
    content = _safetensors(path) if start[8:] == b"{" else _torch(path)
    state = {name: value for name, value in _weights(content).items() if isinstance(value, Tensor)}
    if not state:
        raise DataError(f"{path}: no tensors in it: give a file of a model's weights")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: value for name, value in state.items()}
    return state


def _safetensors(path: Path) -> Mapping[str, Any]:
    try:
        state: Mapping[str, Any] = load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path}: not a whole safetensors file ({error}): copy it again") from None
    return state


def _torch(path: Path) -> Mapping[str, Any]:
    if _is_program(path):
        raise _unsafe(path, "it is a TorchScript program")
    try:
        # Torch warns of old pickle protocols, which the reader of a checkpoint cannot change.
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a broken file torch's reader raises what comes first
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted:
            raise _unsafe(path, f"reading it would call {wanted[1]}") from None
        raise DataError(
            f"{path}: neither safetensors nor a whole file of torch.save: copy it again"
        ) from None
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: no dictionary of tensors: give a file of a model's weights")
    return content


def _is_program(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def _unsafe(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path}: {reason}, and only tensors are read: where you trust it, load it yourself "
        "and save its state_dict as safetensors"
    )


def _weights(content: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in _WRAPPERS:
        inner = content.get(name)
        if isinstance(inner, Mapping) and inner:
            return _weights(inner)
    return content

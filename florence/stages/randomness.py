"""The random state of a rank: seeded at the start, kept in checkpoints, put back on resume."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def seed_rank(seed: int, rank: int, step: int) -> None:
    """Seed this process's generators so that ranks draw apart from each other (drop path, say)."""
    digest = hashlib.blake2b(f"{seed}/{rank}/{step}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest) >> 1)


def rank_state(device: torch.device) -> dict[str, Tensor]:
    """The state of this process's generators, as uint8 tensors."""
    state = {"rng/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["rng/cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_rank_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Put this process's generators back to a state; a state of the CPU alone leaves CUDA's."""
    torch.set_rng_state(state["rng/cpu"])
    if device.type == "cuda" and "rng/cuda" in state:
        torch.cuda.set_rng_state(state["rng/cuda"], device)

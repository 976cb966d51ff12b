"""Which settings decide the parameters that training reaches.

A checkpoint is resumed only under the settings that it was made with. Settings outside this list
(engine, sharding, chunks, recomputation, loader processes, logging, …) change speed and memory and
may differ between attempts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from florence.config import Architecture, Pretrain

_FREE = {
    "engine",
    "zeroStage",
    "activationCheckpointing",
    "gradientCacheChunks",
    "compile",
    "checkpoints",
    "logEverySteps",
    "nanBudget",
}
_FREE_OF_LOADER = {"workers", "prefetch", "cacheBytes", "maxBadFraction"}


def trajectory(architecture: Architecture, settings: Pretrain, data: str) -> dict[str, Any]:
    """The settings that decide the result, flat, by dotted field path.

    Args:
        data: fingerprint of the samples; where they lie does not matter.
    """
    config = {key: value for key, value in settings.wire().items() if key not in _FREE | {"data"}}
    config["loader"] = {k: v for k, v in config["loader"].items() if k not in _FREE_OF_LOADER}
    model = architecture.wire()
    del model["image"]["attention"]
    return {**_flat(config, ""), **_flat(model, "model."), "data": data}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A phrase per setting that differs, such as ``batchSize: 64 -> 128``; empty when none does."""
    return [
        f"{key}: {before.get(key)} -> {now.get(key)}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]


def _flat(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path.removesuffix("."): value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{path}{key}.")
    return flat

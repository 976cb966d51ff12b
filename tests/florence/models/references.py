"""Independent implementations that only tests use."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import nn


def reference(module: str) -> Any:
    """Import ``module`` or skip the test, saying why.

    A torchvision built for another torch raises RuntimeError and takes timm and open_clip with it.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{module} does not import here: {error}")


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Weights large enough that every part of the model shows in its output."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.1, generator=generator)
            if name.endswith("weight"):
                parameter.data.add_(1)
        elif "bias_table" in name:
            nn.init.normal_(parameter, generator=generator)
        else:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5, generator=generator)

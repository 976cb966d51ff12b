"""Shapes on disk and a model for them, which the evaluations' tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.florence.evaluation.shapes import Head, write_shapes


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See :func:`tests.florence.evaluation.shapes.write_shapes`."""
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root)
    return root


@pytest.fixture
def head() -> Head:
    torch.manual_seed(0)
    return Head()

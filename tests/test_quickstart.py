"""The notebook of the docs: its cells are run one after another, as a kernel would."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "quickstart.ipynb"


def cells() -> list[dict[str, Any]]:
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    found: list[dict[str, Any]] = document["cells"]
    return found


def test_it_is_kept_without_outputs() -> None:
    assert len({cell["id"] for cell in cells()}) == len(cells())
    for cell in cells():
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


def run(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line, if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    if last is None:
        return None
    assert isinstance(last, ast.Expr)
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


@pytest.mark.slow
def test_its_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path))
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = {
        cell["id"]: run("".join(cell["source"]), names)
        for cell in cells()
        if cell["cell_type"] == "code"
    }
    assert shown["train-code"].endswith("/quickstart/pretrain/model")
    assert set(shown["three-lines"]["probabilities"]) == set(names["names"])
    assert names["accuracy"] > 0.3
    assert "of 100 digits are right" in shown["accuracy"]
    assert len(shown["embed-code"]) == 5
    assert shown["inside-code"][:2] == ("contrastive", 32)

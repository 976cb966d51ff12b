"""Every recorder has the methods of the protocol, also the one that the docs show."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from florence_jobs.tracking.recorder import Tracker
from florence_jobs.tracking.several import ClosableRecorder, SeveralRecorders
from florence_jobs.tracking.tensorboard import TensorBoardRecorder

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def methods(recorder: type) -> dict[str, list[str]]:
    """Public methods with the names of their parameters."""
    found = {}
    for name, member in inspect.getmembers(recorder):
        if not name.startswith("_") and inspect.isfunction(member):
            found[name] = list(inspect.signature(member).parameters)
    return found


def documented() -> dict[str, list[str]]:
    """Those of the class in the docs."""
    (block,) = [b for b in DOCS.read_text().split("```") if b.startswith("python\nimport io\n")]
    (written,) = [
        n for n in ast.parse(block.removeprefix("python")).body if isinstance(n, ast.ClassDef)
    ]
    return {
        node.name: [argument.arg for argument in node.args.args]
        for node in written.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


@pytest.mark.parametrize("recorder", [SeveralRecorders, Tracker, TensorBoardRecorder, "docs"])
def test_a_recorder_has_every_method(recorder: type | str) -> None:
    given = documented() if isinstance(recorder, str) else methods(recorder)
    for name, parameters in methods(ClosableRecorder).items():
        assert given[name][: len(parameters)] == parameters, name


def test_several_recorders_are_told_the_same() -> None:
    class Noting:
        run_id = None

        def __init__(self) -> None:
            self.told: list[tuple[object, ...]] = []

        def __getattr__(self, name: str) -> object:
            return lambda *given: self.told.append((name, *given))

    one, other = Noting(), Noting()
    several = SeveralRecorders([one, other])  # type: ignore[list-item]
    several.parameters({"a": 1})
    several.dataset("s3://x", "0", 1, "train")
    several.metrics(1, {"loss": 1.0})
    several.table("t", [{"a": 1}])
    several.picture("p", b"png")
    several.checkpoint("s3://c", 1, {})
    several.model({}, "s3://m")
    several.evaluated("s3://m", {"top1": 1.0})
    several.close("FAILED", "why")
    assert one.told == other.told
    assert [name for name, *_ in one.told] == [
        *("parameters", "dataset", "metrics", "table", "picture", "checkpoint", "model"),
        *("evaluated", "close"),
    ]
    one.run_id = "that one"  # type: ignore[assignment]
    assert several.run_id == "that one"

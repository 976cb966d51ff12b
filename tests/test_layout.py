from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("folder", ["operator", "jobs", "cli", "tests"])
def test_no_package_marker_where_it_would_shadow_the_standard_library(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def test_the_standard_librarys_operator_wins_from_the_root() -> None:
    code = "import operator, json; assert operator.itemgetter"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_base_needs_no_torch() -> None:
    """What a cluster user's laptop imports must not need the training extra."""
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "numpy", "mlflow", "boto3", "PIL", "deepspeed"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import florence.config, florence.planner, florence_operator.api, florencectl.main
import florence.kinds, florence.evaluation.registry, florence.models.card, florence.tasks.inputs
import florencectl.commands.submit, florencectl.commands.plan, florencectl.commands.runs
import florencectl.commands.predict, florencectl.commands.embed, florencectl.checking_data
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_modules_stay_short_enough_to_read() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("florence", "operator", "jobs", "cli")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert not long

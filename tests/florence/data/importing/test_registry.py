from __future__ import annotations

import subprocess
import sys

import pytest

from florence.data.importing.registry import FORMATS, import_format
from florence.errors import ConfigurationError


def test_formats_are_listed_without_the_training_extra() -> None:
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "numpy", "boto3", "PIL", "pyarrow"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import florencectl.commands.data
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_entry_is_complete(name: str) -> None:
    kind = import_format(name)
    assert kind.name == name
    assert callable(kind.open())
    assert kind.settings()  # all settings have defaults
    for field, info in kind.settings.model_fields.items():
        assert info.description, field


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"'excel' is not a format.*csv.*karpathy"):
        import_format("excel")

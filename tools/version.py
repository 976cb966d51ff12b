"""One version everywhere: ``project.version`` in pyproject.toml is written wherever else it stands.

``python -m tools.version [--check]`` writes it, or says which files say another one.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from florence.errors import ConfigurationError
from florence_operator.api.generated import write_or_check

NUMBER = r"\d+\.\d+\.\d+"
"""No pre-releases: Helm writes them in another way than Python does."""
IMAGE = rf"florence-(?:jobs|operator):(?={NUMBER})"
"""The project's images by name and tag, wherever they are named: files, docs, comments."""
TAG = r"- name: florence-(?:jobs|operator)\n\s+newTag: "
PLACES = {
    "florence/__init__.py": r'^__version__ = "',
    "charts/florence-operator/Chart.yaml": r"^(?:version|appVersion): ",
    "CITATION.cff": r"^version: ",
}
"""Files that say the version in words of their own, and what stands before it there."""
FOLDERS = (".ci", "charts", "cli", "docs", "jobs", "manifests", "operator", "tests")
SUFFIXES = ("", ".md", ".py", ".yaml")


def version_of(root: Path) -> str:
    """The version that ``pyproject.toml`` says.

    Raises:
        ConfigurationError: it is not of the form 1.2.3.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version = str(project["version"])
    if not re.fullmatch(NUMBER, version):
        raise ConfigurationError(
            f"pyproject.toml: project.version '{version}': write it as 1.2.3, which Python's and "
            "Helm's rules both take"
        )
    return version


def with_version(text: str, version: str, before: str) -> str:
    """``text`` with every version behind the pattern ``before`` replaced."""
    return re.sub(f"({before}){NUMBER}", lambda match: match[1] + version, text, flags=re.MULTILINE)


def updated(root: Path) -> dict[Path, str]:
    """What every file that says the version has to hold."""
    version = version_of(root)
    texts = {}
    for path in _files(root):
        before = [IMAGE, TAG]
        if place := PLACES.get(path.relative_to(root).as_posix()):
            before.append(place)
        text = path.read_text(encoding="utf-8")
        for pattern in before:
            text = with_version(text, version, pattern)
        texts[path] = text
    return texts


def _files(root: Path) -> Iterator[Path]:
    yield from (root / name for name in (*PLACES, "README.md"))
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts:
                yield path


def main(arguments: Sequence[str], root: Path = Path()) -> int:
    """Write the version, or say which files hold another; 1 when one does."""
    texts = updated(root)
    stale = {path: text for path, text in texts.items() if text != path.read_text(encoding="utf-8")}
    return write_or_check(stale, check="--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

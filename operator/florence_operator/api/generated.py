"""Files that programs write and the repository keeps: write them, or see that they are fresh."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def write_or_check(files: Mapping[Path, str], *, check: bool) -> int:
    """Write each text into its file, or say which files are stale; 1 when one is."""
    stale = 0
    for path, text in files.items():
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"{path} is stale: run 'make generate'", file=sys.stderr)
            stale = 1
    return stale

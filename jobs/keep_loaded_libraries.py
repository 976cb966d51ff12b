"""Delete the GPU libraries that torch does not load on a machine without a GPU.

Run while an image for such machines is built. torch itself is linked with some of them, so those
that are mapped after importing it stay.
"""

from __future__ import annotations

from pathlib import Path

import torch

root = Path(torch.__file__).parent.parent / "nvidia"
maps = Path("/proc/self/maps").read_text(encoding="utf-8")
for library in root.rglob("*.so*"):
    if str(library.resolve()) not in maps:
        library.unlink()

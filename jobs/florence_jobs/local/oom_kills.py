"""Whether the kernel ended processes for want of memory: those cannot say so themselves."""

from __future__ import annotations

import re
from pathlib import Path

_COUNT = re.compile(r"(?m)^oom_kill (\d+)$")


def oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes the kernel has ended so far for want of memory.

    Those of this process's cgroup, which its children share; of the whole machine where no cgroup
    tells; ``None`` where nothing does, as on other systems than Linux.

    Args:
        root: of the file system.
    """
    for path in (*_cgroup_files(root), root / "proc/vmstat"):
        try:
            found = _COUNT.search(path.read_text())
        except OSError:
            continue
        if found:
            return int(found[1])
    return None


def _cgroup_files(root: Path) -> list[Path]:
    """Where the cgroup says it: version 2, or the memory controller of version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    groups = root / "sys/fs/cgroup"
    files = []
    for line in lines:
        number, controllers, group = line.split(":", 2)
        below = group.lstrip("/")
        if "memory" in controllers.split(","):
            files.append(groups / "memory" / below / "memory.oom_control")
        elif number == "0":
            files.append(groups / below / "memory.events")
    return files

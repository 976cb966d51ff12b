"""What the kernel tells about the control group that this process and its children are in."""

from __future__ import annotations

from pathlib import Path


def memory_texts(version_1: str, version_2: str, root: Path = Path("/")) -> list[str]:
    """The contents of a file about memory, that of this process's group first.

    Args:
        version_1: the file's name where the memory controller has a tree of its own.
        version_2: its name in the one tree of all controllers.
        root: of the file system.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    groups = root / "sys/fs/cgroup"
    paths = []
    for line in lines:
        number, controllers, group = line.split(":", 2)
        # In a container the group's own path may lead nowhere: its folder is the top one there.
        for below in (group.lstrip("/"), ""):
            if "memory" in controllers.split(","):
                paths.append(groups / "memory" / below / version_1)
            elif number == "0":
                paths.append(groups / below / version_2)
    return [path.read_text() for path in paths if path.is_file()]

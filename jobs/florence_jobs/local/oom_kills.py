"""Whether the kernel ended processes for want of memory: those cannot say so themselves."""

from __future__ import annotations

import re
from pathlib import Path

from florence_jobs.cgroup import memory_texts

_COUNT = re.compile(r"(?m)^oom_kill (\d+)$")


def oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes the kernel has ended so far for want of memory.

    Those of this process's cgroup, which its children share; of the whole machine where no cgroup
    tells; ``None`` where nothing does, as on other systems than Linux.

    Args:
        root: of the file system.
    """
    texts = memory_texts("memory.oom_control", "memory.events", root)
    machine = root / "proc/vmstat"
    if machine.is_file():
        texts.append(machine.read_text())
    found = filter(None, map(_COUNT.search, texts))
    return next((int(count[1]) for count in found), None)

"""What GPUs leave of a hang: Xid lines of the kernel's log, and dumps of NCCL's flight recorder.

The dumps are pickles of torch's: they are copied, and never opened here.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from florence_jobs.evidence.rank import FOLDER

_XID = re.compile(r"NVRM: Xid\b")
_MOST_LINES = 50
_MOST_RECORDS = 200_000
_LONGEST_DMESG = 3.0
_KERNEL_LOG = Path("/dev/kmsg")

_ENTRIES = ("TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE")
_DUMP_FILE = ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
_ON_TIMEOUT = ("TORCH_FR_DUMP_ON_TIMEOUT", "TORCH_NCCL_DUMP_ON_TIMEOUT")
_PIPE = ("TORCH_NCCL_DEBUG_INFO_PIPE_FILE",)
# Two names of the same: newer versions of torch read the first, older ones the second only.


def recorder_defaults(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that let NCCL record what it does and dump it when asked; the user's own hold."""
    folder = environment.get(FOLDER)
    if not folder:
        return {}
    stem = f"{folder}/nccl-rank-"
    values = ((_ENTRIES, "2000"), (_ON_TIMEOUT, "1"), (_DUMP_FILE, stem), (_PIPE, stem))
    return {
        name: value
        for names, value in values
        if not any(name in environment for name in names)
        for name in names
    }


def request_dumps(
    folder: Path, ranks: Iterable[int], environment: Mapping[str, str] = os.environ
) -> bool:
    """Ask the flight recorders of ranks for a dump; whether any of them listens."""
    asked = False
    for rank in ranks:
        pipe = f"{_stem(_PIPE, folder, environment)}{rank}.pipe"
        with contextlib.suppress(OSError):
            if stat.S_ISFIFO(os.stat(pipe).st_mode):
                number = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)  # an error if nobody reads
                try:
                    os.write(number, b"1")
                finally:
                    os.close(number)
                asked = True
    return asked


def dumps(
    folder: Path, ranks: Iterable[int], environment: Mapping[str, str] = os.environ
) -> dict[int, Path]:
    """The dumps that there are, by rank."""
    stem = _stem(_DUMP_FILE, folder, environment)
    found = {rank: Path(f"{stem}{rank}") for rank in ranks}
    return {rank: path for rank, path in found.items() if path.is_file() and path.stat().st_size}


def _stem(names: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    given = next((environment[name] for name in names if environment.get(name)), None)
    return given or f"{folder}/nccl-rank-"


def gpu_errors(lines: Callable[[], Iterable[str]] | None = None) -> list[str]:
    """The newest Xid lines of the kernel's log; none where it may not be read, as in most pods."""
    found: list[str] = []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        for line in (lines or _kernel_log)():
            if _XID.search(line):
                found.append(line.strip())
    return found[-_MOST_LINES:]


def _kernel_log() -> Iterable[str]:
    try:
        number = os.open(_KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        done = subprocess.run(
            ["dmesg"], capture_output=True, timeout=_LONGEST_DMESG, errors="replace", check=False
        )
        return done.stdout.splitlines()
    return _records(number)


def _records(number: int) -> Iterator[str]:
    """One record a read; the end of what there is would block."""
    try:
        for _ in range(_MOST_RECORDS):
            try:
                record = os.read(number, 8192).decode(errors="replace")
            except BrokenPipeError:  # it was overwritten meanwhile
                continue
            except BlockingIOError:
                return
            if not record:
                return
            yield record.partition(";")[2].partition("\n")[0] or record
    finally:
        os.close(number)

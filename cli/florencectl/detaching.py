"""Let a job run on in the background: a process of its own owns it, and no terminal."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

from florence.errors import FlorenceError
from florence_operator.api import FlorenceJob
from florencectl.output import note
from florencectl.program import local_command

if TYPE_CHECKING:
    from florence_jobs.local import Records

_SECONDS_BETWEEN_LOOKS = 0.1
_LINES_OF_A_FAILURE = 5


def run_detached(records: Records, job: FlorenceJob, processes: int | None) -> int:
    """Start a process that runs the job as ``resume`` does, and return once it has begun.

    Raises:
        FlorenceError: it ended before it began.
    """
    namespace, name = job.namespace, job.metadata.name
    with records.lock(namespace, name):
        records.save(job)
    command = [sys.executable, "-m", "florencectl.main", "resume", name, "--local", "-n", namespace]
    if processes is not None:
        command += ["--processes", str(processes)]
    output = records.output_file(job)
    with output.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while records.owner(namespace, name) != process.pid:
        if process.poll() is not None:
            if process.returncode == 0:  # it was quick
                break
            said = output.read_text(errors="replace").splitlines()[-_LINES_OF_A_FAILURE:]
            raise FlorenceError("\n".join(said) or f"{name}: ended with {process.returncode}")
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    note(f"{name}: runs in the background (process {process.pid}; it tells {output})")
    note(f"follow it: {local_command('logs', namespace, name, '--follow')}")
    note(f"stop it:   {local_command('stop', namespace, name)}")
    return 0

"""The name that the user called this program by."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

PLUGIN = "kubectl-florence"


def program_name(called: str | None = None) -> str:
    """``florencectl``, or ``kubectl florence`` when kubectl runs it as its plugin."""
    file = Path(sys.argv[0] if called is None else called).name
    return "kubectl florence" if file.removesuffix(".exe") == PLUGIN else "florencectl"


def program_to_type() -> str:
    """How the user calls this program from here: by its name where that is on the path."""
    called = sys.argv[0]
    if shutil.which("florencectl") or Path(called).name != "florencectl":
        return program_name()
    return shlex.quote(called)


def local_command(verb: str, namespace: str, name: str, *options: str) -> str:
    """A command on a job of this machine, as the user would type it here."""
    where = [] if namespace == "default" else ["-n", namespace]
    return " ".join([program_to_type(), verb, name, *where, "--local", *options])

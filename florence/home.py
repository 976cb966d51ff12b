"""The folder on this machine where local runs, built-in data and the local MLflow store live."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def florence_home(environment: Mapping[str, str] = os.environ) -> Path:
    """``$FLORENCE_HOME``, or ``~/.florence``; may not exist yet."""
    return Path(environment.get("FLORENCE_HOME") or "~/.florence").expanduser().absolute()

"""Data sets that come with the package: ``builtin:digits/train``, ``builtin:digits-scenes/test``.

They are written as ordinary shards on first use, under ``$FLORENCE_HOME/data`` (default
``~/.florence/data``). The folder appears under its name only when it is whole: processes that race
each write their own and the first rename wins.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from florence.data.digit_chalk import write_chalk
from florence.data.digit_clips import write_actions, write_pairs
from florence.data.digit_questions import write_questions
from florence.data.digit_scenes import write_scenes
from florence.data.digits import write_digits
from florence.errors import ConfigurationError, TransientError
from florence.home import florence_home

SCHEME = "builtin:"
_WRITERS: dict[str, Callable[[str], object]] = {
    "digits": write_digits,
    "digits-chalk": write_chalk,
    "digits-scenes": write_scenes,
    "digits-questions": write_questions,
    "digits-actions": write_actions,
    "digits-pairs": write_pairs,
}
DATA_SETS = dict.fromkeys(_WRITERS, ("train", "test"))
# A part of the folder's name: raise it when what is written changes.
_EDITION = 4


def resolve(uri: str, home: Path | None = None) -> str:
    """The folder behind a ``builtin:`` URI, made if need be; any other URI as it stands.

    Raises:
        ConfigurationError: there is no such built-in data set, or its folder cannot be written.
        TransientError: the disk is full.
    """
    if not uri.startswith(SCHEME):
        return uri
    name, split = check_name(uri)
    folder = (home or florence_home()) / "data" / f"{name}-{_EDITION}"
    if not folder.is_dir():
        _make(folder, _WRITERS[name])
    return str(folder / split)


def check_name(uri: str) -> tuple[str, str]:
    """Name and split of a ``builtin:`` URI. Raises :class:`ConfigurationError` for another."""
    name, _, split = uri.removeprefix(SCHEME).partition("/")
    if split not in DATA_SETS.get(name, ()):
        known = ", ".join(f"{SCHEME}{n}/{s}" for n, splits in DATA_SETS.items() for s in splits)
        raise ConfigurationError(f"{uri} is not a built-in data set: use one of {known}")
    return name, split


def _make(folder: Path, write: Callable[[str], object]) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise ConfigurationError(
            f"{folder.parent} cannot be written ({error.strerror}): "
            "set FLORENCE_HOME to a folder that can"
        ) from error
    try:
        write(str(draft))
        draft.chmod(0o755)  # mkdtemp makes it private; a home may be shared
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same content
                raise
    except OSError as error:
        raise TransientError(
            f"{folder} cannot be written ({error.strerror}): free space there"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)

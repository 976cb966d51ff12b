"""Which class of the prompts each class of the data is: by name, never by position alone."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from florence.errors import ConfigurationError
from florence.evaluation.prompts import Prompts

_SHOWN = 5


def comparable(name: str) -> str:
    """A name without what file systems and habits change: case, ``_``, ``-``, punctuation."""
    folded = unicodedata.normalize("NFKC", name).casefold().replace("'", "").replace("’", "")
    return " ".join("".join(c if c.isalnum() else " " for c in folded).split())


def class_numbers(
    names: Sequence[str], prompts: Prompts, *, field: str, data: str
) -> NDArray[np.int64]:
    """For each class of the data, its number among the prompts' classes.

    Names are compared by :func:`comparable`, with the prompts' ``folders`` if they have some, else
    or failing that with their ``classes``. Folders that are all called by numbers have no names:
    the numbers are the classes'.

    Args:
        names: the data's class names, in the order of its labels.
        prompts: what they must be found in.
        field: of the settings, for messages.
        data: the data's URI, for messages.

    Returns:
        int64 ``(len(names),)`` in ``[0, len(prompts.classes))``.

    Raises:
        ConfigurationError: the two do not name the same classes; shows both.
    """
    own = [comparable(name) for name in names]
    for candidates in filter(None, (prompts.folders, prompts.classes)):
        wanted = [comparable(name) for name in candidates]
        if own == wanted:  # also where two classes share a name
            return np.arange(len(own), dtype=np.int64)
        if sorted(own) == sorted(wanted) and len(set(own)) == len(own):
            number = {name: row for row, name in enumerate(wanted)}
            return np.array([number[name] for name in own], np.int64)
    if all(name.isascii() and name.isdigit() for name in names):
        numbers = np.array([int(name) for name in names], np.int64)
        if len(set(numbers.tolist())) == len(numbers) and numbers.max() < len(prompts.classes):
            return numbers
    raise ConfigurationError(_difference(names, prompts, field, data))


def _difference(names: Sequence[str], prompts: Prompts, field: str, data: str) -> str:
    wanted = prompts.folders or prompts.classes
    own = {comparable(name) for name in names}
    other = {comparable(name) for name in wanted}
    extra = [name for name in names if comparable(name) not in other]
    missing = [name for name in wanted if comparable(name) not in own]
    return (
        f"{field}: {data} has {len(names)} class folders or names and the prompts "
        f"{len(prompts.classes)} classes; only the data has {_listed(extra)}, "
        f"only the prompts have {_listed(missing)}: give prompts with the data's names"
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{shown}{more}" if names else "nothing"

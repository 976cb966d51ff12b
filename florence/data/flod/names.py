"""One name for one thing, whatever a data set calls it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

from florence.config.storage import S3Settings
from florence.data.importing.rows import split_uri
from florence.errors import ConfigurationError
from florence.storage import MissingKeyError, open_storage


class NameTable:
    """Canonical names: those of a table, and all others in lower case with blanks.

    Args:
        table: by data set, canonical names by its own.
    """

    def __init__(self, table: Mapping[str, Mapping[str, str]]) -> None:
        self._table = {
            source: {plain(name): canonical for name, canonical in names.items()}
            for source, names in table.items()
        }

    def canonical(self, source: str, name: str) -> str:
        """What a data set's name is called in all of them."""
        simple = plain(name)
        return self._table.get(source, {}).get(simple, simple)

    def entries(self) -> dict[str, dict[str, str]]:
        """By data set, canonical names by its own in their plain form."""
        return self._table

    def over(self, other: NameTable) -> NameTable:
        """This table where it has an entry, else the other."""
        sources = {*self._table, *other._table}
        return NameTable(
            {s: {**other._table.get(s, {}), **self._table.get(s, {})} for s in sources}
        )


def plain(name: str) -> str:
    """A name in lower case, with one blank for underscores and blanks."""
    return " ".join(name.replace("_", " ").casefold().split())


def shipped_names() -> NameTable:
    """The table that comes with the package: COCO, LVIS, Objects365, Open Images."""
    text = files("florence.data.flod").joinpath("names.yaml").read_text("utf-8")
    return NameTable(yaml.safe_load(text))


def read_names(uri: str, s3: S3Settings | None) -> NameTable:
    """A person's own table, which wins over the shipped one.

    Raises:
        ConfigurationError: it is missing, or is not names by data set.
    """
    folder, name = split_uri(uri)
    try:
        table: Any = yaml.safe_load(open_storage(folder, s3).read(name))
    except MissingKeyError:
        raise ConfigurationError(f"names: {uri} does not exist: check the path") from None
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"names: {uri} is not YAML: {reason}: mend it") from error
    if not isinstance(table, Mapping) or not all(map(_is_names, table.values())):
        raise ConfigurationError(
            f"names: {uri} is no table of names: write 'source: {{its name: the common name}}'"
        )
    return NameTable(table).over(shipped_names())


def _is_names(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(text, str) for pair in value.items() for text in pair
    )

"""``vocabularies.json``: for which names each data set looked, among shards with boxes.

.. code-block:: json

   {"coco": {"names": ["person", "bicycle"]},
    "lvis": {"names": ["cat"], "federated": true, "frequencies": ["f"]}}

A detector that is trained on several data sets may not take for background what one of them never
looked for. Of a federated vocabulary only some names were looked for in an image: those of its
boxes and of its ``negatives``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from florence.data.boxes import AnnotatedImage
from florence.errors import DataError
from florence.storage import MissingKeyError, Storage

NAME = "vocabularies.json"


@dataclass(frozen=True)
class Vocabulary:
    """The names of one data set.

    Attributes:
        names: in the data set's order.
        federated: whether an image was searched for some of them only.
        frequencies: of each name ``r``, ``c`` or ``f``: rare, common or frequent (LVIS).
    """

    names: tuple[str, ...]
    federated: bool = False
    frequencies: tuple[str, ...] | None = None

    def wire(self) -> dict[str, Any]:
        """The vocabulary as JSON values."""
        values: dict[str, Any] = {"names": list(self.names)}
        if self.federated:
            values["federated"] = True
        if self.frequencies is not None:
            values["frequencies"] = list(self.frequencies)
        return values


Vocabularies = Mapping[str, Vocabulary]


def vocabularies_bytes(vocabularies: Vocabularies) -> bytes:
    """``vocabularies.json``."""
    document = {source: vocabulary.wire() for source, vocabulary in vocabularies.items()}
    return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()


def read_vocabularies(storage: Storage) -> dict[str, Vocabulary] | None:
    """The vocabularies beside shards; None without any.

    Raises:
        DataError: the file is damaged.
    """
    try:
        document = json.loads(storage.read(NAME))
        return {source: _vocabulary(value) for source, value in document.items()}
    except MissingKeyError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{storage.url(NAME)} does not list names by data set ({error}): import the data again"
        ) from error


def all_names(vocabularies: Vocabularies) -> tuple[str, ...]:
    """Every name once, in the order of the data sets."""
    return tuple(dict.fromkeys(name for v in vocabularies.values() for name in v.names))


def annotated_names(image: AnnotatedImage, vocabularies: Vocabularies) -> frozenset[str] | None:
    """The names that were looked for in an image; None when nothing is known of its source.

    Whole vocabularies of data sets that are not federated; of those that are, what has a box or is
    a negative, but for what has not a box on every object.
    """
    known = [vocabularies[source] for source in image.sources if source in vocabularies]
    if not known:
        return None
    whole = {name for vocabulary in known if not vocabulary.federated for name in vocabulary.names}
    some: Iterable[str] = ()
    if any(vocabulary.federated for vocabulary in known):
        some = {box.category for box in image.boxes} | set(image.negatives or ())
    return frozenset(whole | (set(some) - set(image.not_exhaustive)))


def _vocabulary(value: Any) -> Vocabulary:
    names = tuple(value["names"])
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError("names are no list of different texts")
    frequencies = value.get("frequencies")
    if frequencies is not None and len(frequencies) != len(names):
        raise ValueError("there is not one frequency for every name")
    return Vocabulary(
        names,
        federated=bool(value.get("federated", False)),
        frequencies=None if frequencies is None else tuple(frequencies),
    )

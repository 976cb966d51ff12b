"""Reading YAML that a person wrote: nothing in it may be lost, and none of it may take for ever."""

from __future__ import annotations

from typing import Any

import yaml

MOST_BYTES = 1 << 20
"""Of a document. An API server takes no more either."""
DEEPEST = 64
MOST_NODES = 100_000
"""Values and keys, those that aliases repeat counted as often as they stand there."""


class DocumentError(ValueError):
    """A document that is not read; the message is one line and says where."""


def read_yaml(text: str | bytes) -> Any:
    """The one value in a YAML text; ``None`` of an empty one.

    Raises:
        DocumentError: see :func:`read_documents`; also for several documents.
    """
    documents = read_documents(text)
    if len(documents) > 1:
        raise DocumentError(f"holds {len(documents)} YAML documents, not one")
    return documents[0] if documents else None


def read_documents(text: str | bytes) -> list[Any]:
    """Plain values of the documents in a YAML text, without those that are empty.

    Args:
        text: or its UTF-8 bytes, of which the first ``MOST_BYTES + 1`` are enough.

    Raises:
        DocumentError: it is no YAML, a key is there twice, or it is longer, deeper or, its aliases
            counted as what they stand for, larger than a person writes.
    """
    if len(text) > MOST_BYTES:
        raise DocumentError(f"is more than {MOST_BYTES:,} bytes long, too much for a YAML document")
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise DocumentError(f"is not UTF-8: {error.reason} at byte {error.start}") from None
    try:
        _refuse_beyond_bounds(text)
        found = list(yaml.load_all(text, Loader=_Loader))
    except DocumentError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise DocumentError(f"is not valid YAML{line}: {problem}") from None
    except (ValueError, OverflowError) as error:  # a date that is none
        raise DocumentError(f"is not valid YAML: {error}") from None
    return [document for document in found if document is not None]


def _refuse_beyond_bounds(text: str) -> None:
    """Count what a document would become before any of it is made."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and nodes before
    nodes = 0
    for event in yaml.parse(text, Loader=_SAFE_LOADER):
        line = 1 + (event.start_mark.line if event.start_mark else 0)
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, nodes))
            nodes += 1
            if len(open_nodes) > DEEPEST:
                raise DocumentError(f"is nested more than {DEEPEST} deep at line {line}")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = nodes - before
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_nodes):
                raise DocumentError(f"holds itself: *{event.anchor} at line {line}")
            nodes += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            nodes += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.DocumentStartEvent):
            sizes = {}
        if nodes > MOST_NODES:
            raise DocumentError(f"has more than {MOST_NODES:,} values at line {line}")


# libyaml's is about ten times as fast; a PyYAML that was built without it has none.
_SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_MERGE = "tag:yaml.org,2002:merge"


class _Loader(_SAFE_LOADER):  # type: ignore[misc]  # a class that mypy cannot know
    """Plain values, as YAML means them, without keys that hide others."""

    def construct_document(self, node: yaml.Node) -> Any:
        self._refuse_twice(node)  # before keys are merged, which may name one again
        return super().construct_document(node)

    def _refuse_twice(self, root: yaml.Node) -> None:
        pending, known = [root], set[int]()
        while pending:
            node = pending.pop()
            if id(node) in known:
                continue
            known.add(id(node))
            if isinstance(node, yaml.SequenceNode):
                pending += node.value
            elif isinstance(node, yaml.MappingNode):
                pending += [value for _, value in node.value]
                self._check_keys([key for key, _ in node.value])

    def _check_keys(self, keys: list[yaml.Node]) -> None:
        seen: set[Any] = set()
        for key in keys:
            if isinstance(key, yaml.ScalarNode):
                # A key << merges what it holds, and constructs to nothing.
                value = key.value if key.tag == _MERGE else self.construct_object(key)
                if value in seen:
                    line = key.start_mark.line + 1
                    raise DocumentError(f"has the key '{key.value}' twice, again at line {line}")
                seen.add(value)

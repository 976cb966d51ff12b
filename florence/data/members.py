"""What the members of a sample say: its text, its class, its JSON; and what is wrong with them."""

from __future__ import annotations

import json
from typing import Any

from florence.data.archive import Archive, Member, RawSample, printable

NO_CLASS = -1
MOST_TEXT_BYTES = 16 << 20
"""Of a text or JSON member: each is held and parsed whole."""
MOST_CLASS_BYTES = 16 << 10
"""Of a ``.cls``, which holds a number or a name."""
_CLASS_DIGITS = 20
_SPARSE, _FEW_CLASSES = 10, 100
TEXT_NONE, TEXT_MEMBER, TEXT_CAPTION, TEXT_CLASS = range(4)


def note_no_text(archive: Archive, sample: RawSample, source: int) -> None:
    """Name a text that is empty, and a sample of which nothing says what it shows."""
    if source == TEXT_MEMBER:
        archive.note(sample.members["txt"].name, "is an empty text")
    elif source == TEXT_CAPTION:
        archive.note(sample.members["json"].name, "has an empty caption")
    elif not sample.members.keys() & {"txt", "json", "cls"}:
        archive.note(sample.key, "the sample has no text, class or .json: nothing describes it")


def note_unread_class(archive: Archive, sample: RawSample, class_name: str) -> None:
    """Name a class that is a name beside a text."""
    if class_name and not is_class_number(class_name):
        archive.note(
            sample.members["cls"].name,
            f"holds '{printable(class_name[:40])}', which nothing reads beside a text: "
            "a class is a number",
        )


def _content(archive: Archive, member: Member, most: int) -> bytes:
    """A small member's bytes. Raises ``ValueError`` when it is no small one."""
    if member.size > most:
        raise ValueError(f"is {member.size} bytes long: at most {most} are read")
    return archive.read(member)


def json_of(archive: Archive, member: Member) -> dict[str, Any]:
    """The object in a JSON member; an empty one, and a problem, when it holds none."""
    try:
        return parse_json(_content(archive, member, MOST_TEXT_BYTES))
    except ValueError as error:
        archive.note(member.name, str(error))
        return {}


def text_of(
    archive: Archive, sample: RawSample, meta: dict[str, Any], class_name: str
) -> tuple[int, Member | None, str]:
    """A text, its member and which sort that is: .txt, the json's caption, a name in .cls.

    The first one that is there; ``TEXT_NONE`` and an empty text without one.
    """
    if "txt" in sample.members:
        member = sample.members["txt"]
        try:
            return TEXT_MEMBER, member, _content(archive, member, MOST_TEXT_BYTES).decode()
        except UnicodeDecodeError as error:
            archive.note(member.name, f"is not UTF-8: {error.reason} at byte {error.start}")
        except ValueError as error:
            archive.note(member.name, str(error))
        return TEXT_NONE, None, ""
    if isinstance(meta.get("caption"), str):
        return TEXT_CAPTION, sample.members["json"], meta["caption"]
    if class_name and not is_class_number(class_name):
        return TEXT_CLASS, sample.members["cls"], class_name
    return TEXT_NONE, None, ""


def class_name_of(archive: Archive, sample: RawSample) -> str:
    """What ``.cls`` holds, a number or a name; empty without one that can be used."""
    member = sample.members.get("cls")
    if member is None:
        return ""
    try:
        name = _content(archive, member, MOST_CLASS_BYTES).decode().strip()
        if not name:
            archive.note(member.name, "is empty: a class is a number, or a name")
        return name
    except UnicodeDecodeError as error:
        archive.note(member.name, f"is not UTF-8: {error.reason} at byte {error.start}")
    except ValueError as error:
        archive.note(member.name, str(error))
    return ""


def class_index_of(archive: Archive, sample: RawSample, class_name: str) -> int:
    """The number that ``.cls`` holds, in ``[0, 2**31)``; ``NO_CLASS`` for a name."""
    if not is_class_number(class_name):
        return NO_CLASS  # a class name, which is a text
    # Before it is converted: Python refuses thousands of digits.
    if len(class_name) <= _CLASS_DIGITS and 0 <= (index := int(class_name)) < 1 << 31:
        return index
    shown = class_name if len(class_name) <= 2 * _CLASS_DIGITS else f"{len(class_name)} digits"
    archive.note(
        sample.members["cls"].name, f"holds {shown}: a class is a number from 0 to 2147483647"
    )
    return NO_CLASS


def is_class_number(text: str) -> bool:
    """Whether ``.cls`` holds a number, which may be out of range, and not a name."""
    return text.removeprefix("-").isdecimal() and text.isascii()


def is_beyond_all(highest: int, classes: int) -> bool:
    """Whether the highest class number, without names, is a mistake and no gap in the numbers.

    Args:
        highest: class number that occurs.
        classes: how many different ones occur.
    """
    return highest >= _SPARSE * max(classes, _FEW_CLASSES)


def parse_json(data: bytes) -> dict[str, Any]:
    """A sample's JSON member. Raises ``ValueError`` unless it is an object in UTF-8."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value

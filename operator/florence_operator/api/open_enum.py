"""Words that are stored, and of which another version may know more."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class OpenEnum(StrEnum):
    """A set of words that takes others too: what a newer version wrote stays as it was written.

    An unknown word is none of the members, equals only itself, and goes back as it came.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        word = str.__new__(cls, value)
        word._name_ = word._value_ = value
        return word

    @property
    def known(self) -> bool:
        """Whether it is a word of this version."""
        return type(self).__members__.get(self._name_) is self

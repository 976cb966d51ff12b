"""The files that a trained model is shown: named one by one, by folder, by glob, or on stdin."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov")
STDIN = "-"
_S3 = "s3://"


def files_named(
    named: Sequence[str], suffixes: Sequence[str], *, stdin: TextIO, refuse: Callable[[str], None]
) -> list[str]:
    """The files that the user means, in the order given; those of a folder or a glob sorted.

    Args:
        named: files, folders (all files in them that end in ``suffixes``), globs (``**`` too),
            ``s3://`` URIs, and ``-`` for names on ``stdin``, one a line.
        suffixes: lower case, with dots.
        refuse: told in a line what names nothing.
    """
    lines = (line.rstrip("\n") for line in stdin if line.strip()) if STDIN in named else ()
    every: list[str] = []
    for name in named:
        every += lines if name == STDIN else [name]
    files: list[str] = []
    for name in every:
        try:
            files += _files_of(name, suffixes)
        except OSError as error:
            refuse(f"{name}: cannot be read: {error.strerror}")
    return files


def in_parts(files: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """The files some at a time."""
    return (files[start : start + size] for start in range(0, len(files), size))


def _files_of(name: str, suffixes: Sequence[str]) -> Iterable[str]:
    if name.startswith(_S3):
        return [name]
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        found = (str(p) for p in Path(path).rglob("*") if p.suffix.lower() in suffixes)
        return _some(found, f"no {' or '.join(suffixes)} file in this folder")
    if glob.has_magic(path) and not os.path.exists(path):
        matches = (p for p in glob.iglob(path, recursive=True) if os.path.isfile(p))
        return _some(matches, "no file matches")
    os.stat(path)
    return [path]


def _some(files: Iterable[str], otherwise: str) -> list[str]:
    found = sorted(files)
    if not found:
        raise FileNotFoundError(0, otherwise)
    return found

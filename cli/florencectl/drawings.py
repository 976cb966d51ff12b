"""Pictures of a model's answers, written as files."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence.errors import ConfigurationError
from florence.tasks.kind import ModelTask

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


class Drawings:
    """Where pictures of answers go: a folder, with the images' own names, or one file.

    Args:
        target: the folder, or, for one image, a file with the suffix of an image.
        files: names of the images.

    Raises:
        ConfigurationError: one file is named for several images.
    """

    def __init__(self, target: Path, files: Sequence[str]) -> None:
        self._target = target
        self._is_file = target.suffix.lower() in SUFFIXES and not target.is_dir()
        self._used: set[Path] = set()
        self._draw: Callable[[Any, Mapping[str, Any]], Any] | None = None
        if self._is_file and len(files) > 1:
            raise ConfigurationError(
                f"--save {target} is one file for {len(files)} images: name a folder"
            )

    def begin(self, task: ModelTask) -> None:
        """Learn how answers are drawn. Raises :class:`ConfigurationError` where they are not."""
        if task.picture is None:
            raise ConfigurationError(
                f"--save: answers of {task.name} models are not drawn: leave it out"
            )
        self._draw = pkgutil.resolve_name(task.picture)

    def add(self, name: str, image: Image.Image, answer: Mapping[str, Any]) -> None:
        """Write the picture of an answer; a JPEG's name keeps its form.

        Raises:
            ConfigurationError: the file cannot be written.
        """
        assert self._draw is not None
        path = self._target if self._is_file else self._free(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._draw(image, answer).save(path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigurationError(f"--save {path}: cannot be written: {reason}") from None

    def _free(self, name: str) -> Path:
        """A path in the folder that no other image of this call has."""
        last = Path(name.rpartition("/")[2])
        suffix = last.suffix if last.suffix.lower() in SUFFIXES else ".png"
        path = self._target / f"{last.stem}{suffix}"
        number = 1
        while path in self._used:
            number += 1
            path = self._target / f"{last.stem}-{number}{suffix}"
        self._used.add(path)
        return path

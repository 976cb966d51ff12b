"""Image and video files by name, as the rows hold them that a model is asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from florence.config.storage import S3Settings
from florence.tasks.inputs import Type
from florence.tasks.kind import ModelTask
from florencectl.input_files import IMAGE_SUFFIXES, VIDEO_SUFFIXES

MEDIA_SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


def noun(name: str) -> str:
    """What a file holds, by its name."""
    return "video" if name.lower().endswith(VIDEO_SUFFIXES) else "image"


def fits(name: str, task: ModelTask, refuse: Callable[[str], None]) -> bool:
    """Whether a file is one of images or videos, as the model takes; refuses it otherwise."""
    medium = task.inputs.medium
    if not name.lower().endswith(IMAGE_SUFFIXES if medium == "video" else VIDEO_SUFFIXES):
        return True
    refuse(f"{name}: {task.name} models take {medium}s")
    return False


def contents_for(
    medium: Type, names: Sequence[str], s3: S3Settings, refuse: Callable[[str], None]
) -> Iterator[tuple[str, Any]]:
    """Files by name: decoded images, or the bytes of videos that can be decoded.

    What is wrong with those left out is told in a line each.
    """
    from florencectl.inference import contents_of, pictures_of

    if medium == "image":
        yield from pictures_of(names, s3, refuse)
        return
    from florence.data.video.decoding import open_clip
    from florence.data.video.files import BrokenClipError

    for name, content in contents_of(names, s3, refuse):
        try:
            with open_clip(content) as clip:
                clip.frames([len(clip.times) // 2])
        except BrokenClipError as error:
            refuse(f"{name}: {error}")
        else:
            yield name, content

"""The decoder of videos that is used here, behind the interface of files."""

from __future__ import annotations

from florence.data.video.files import ClipFile, ClipLimits

_BLOCK = 64


def open_clip(data: bytes, limits: ClipLimits | None = None, *, threads: int = 1) -> ClipFile:
    """A video file's content, opened.

    Args:
        data: the file.
        limits: what it may have at most.
        threads: that decode it; more than one pays for large frames only.

    Raises:
        BrokenClipError: it is no video, has no frame, or is beyond the limits; says which.
    """
    # When it is needed: what only reads images loads no decoder.
    from florence.data.video.pyav import PyAvClip

    return PyAvClip(data, limits or ClipLimits(), threads)


def check_clip(data: bytes) -> None:
    """Decode every frame of a video, some at a time. Raises :class:`BrokenClipError`."""
    with open_clip(data) as clip:
        for start in range(0, len(clip.times), _BLOCK):
            clip.frames(range(start, min(start + _BLOCK, len(clip.times))))


def decoder() -> str:
    """The name and version of what decodes here, for a model's card."""
    from florence.data.video.pyav import version

    return version()

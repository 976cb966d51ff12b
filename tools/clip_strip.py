"""Draw the strip of frames of docs/video.md: ``python -m tools.clip_strip [FILE]``."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from florence.data.builtin import resolve
from florence.data.shards import Need, ShardSet
from florence.evaluation.clips import StoredClips, strip

PICTURE = "docs/pictures/clips.png"
COLOURS = 48
"""As many as look right: a page loads the picture every time."""


def pictures(uri: str, numbers: Sequence[int]) -> bytes:
    """Rows of frames of some clips of a data set, each under its first caption; a PNG."""
    shards = ShardSet.open(resolve(uri), need=Need.VIDEO)
    titles = [(number, shards.read(number).text) for number in numbers]
    return strip(StoredClips(shards), titles)


def stacked(pngs: Sequence[bytes]) -> bytes:
    """Pictures one below the other; a PNG."""
    images = [Image.open(io.BytesIO(png)) for png in pngs]
    size = max(image.width for image in images), sum(image.height for image in images)
    whole, top = Image.new("RGB", size, "white"), 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    buffer = io.BytesIO()
    whole.quantize(COLOURS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main(arguments: Sequence[str]) -> int:
    """Write the picture."""
    path = Path(arguments[0] if arguments else PICTURE)
    actions = pictures("builtin:digits-actions/test", (0, 4, 5))
    pairs = pictures("builtin:digits-pairs/test", (0, 1, 2))
    path.write_bytes(stacked([actions, pairs]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

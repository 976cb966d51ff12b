"""Prompt templates: sentences with a gap, {}, for a word or a class name."""

from __future__ import annotations

import hashlib
from pathlib import Path

from florence.config.storage import S3Settings
from florence.errors import ConfigurationError, DataError
from florence.storage import open_storage

GAP = "{}"
MOST_BYTES = 1 << 20
"""Of a file of templates."""

# The 80 prompts that CLIP publishes for ImageNet (openai/CLIP, notebooks; Radford et al. 2021).
IMAGENET = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)

DIGITS = (
    "a scan of the digit {}.",
    "a handwritten {}.",
    "the number {} written by hand.",
    "a small picture of the number {}.",
    "someone wrote the digit {}.",
    "a blurry scan of a handwritten {}.",
    "this is the digit {}.",
    "a grey image of a {}.",
)

BUILTIN: dict[str, tuple[str, ...]] = {
    "imagenet": IMAGENET,
    "digits": DIGITS,
    "none": (GAP,),
}


def load_templates(
    name: str, field: str = "text.templates", *, s3: S3Settings | None = None
) -> tuple[str, ...]:
    """The templates of a built-in list, or of a text file with one per line.

    Empty lines and lines that begin with # are skipped.

    Args:
        name: of the list, or the path or ``s3://`` URI of the file.
        field: what the caller's user set, for messages.
        s3: where ``s3://`` is.

    Raises:
        ConfigurationError: no such list or file, or a line without the gap; names ``field``.
    """
    if name in BUILTIN:
        return BUILTIN[name]
    try:
        content = _content(name, s3)
        if len(content) > MOST_BYTES:
            raise DataError(f"it is more than {MOST_BYTES:,} bytes long")
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError, DataError) as error:
        raise ConfigurationError(
            f"{field}: '{name}' is neither a built-in list ({', '.join(BUILTIN)}) "
            f"nor a text file that can be read: {error}"
        ) from error
    templates = []
    for number, line in enumerate(lines, start=1):
        template = line.strip()
        if not template or template.startswith("#"):
            continue
        if GAP not in template:
            raise ConfigurationError(
                f"{field}: line {number} of '{name}' has no {GAP} where the text goes"
            )
        templates.append(template)
    if not templates:
        raise ConfigurationError(f"{field}: '{name}' holds no template")
    return tuple(templates)


def _content(name: str, s3: S3Settings | None) -> bytes:
    if not name.startswith("s3://"):
        with Path(name).open("rb") as lines:
            return lines.read(MOST_BYTES + 1)
    folder, _, file = name.rpartition("/")
    return open_storage(folder, s3).read_range(file, 0, MOST_BYTES + 1)


def render(template: str, text: str) -> str:
    """The template with the text in its gap."""
    return template.replace(GAP, text)


def draw(seed: int, epoch: int, key: str, n: int) -> int:
    """Which of ``n`` templates a sample gets in an epoch: uniform, and a pure function."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % n

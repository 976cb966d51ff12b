"""``florencectl embed``: embeddings of image, video and text files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from florence.config.storage import S3Settings
from florence.errors import DataError
from florencectl.embedding_files import FILES, PRINTED, check_target, write
from florencectl.failures import BadFiles
from florencectl.input_files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, files_named, in_parts
from florencectl.model_uris import resolved
from florencectl.options import Device, ModelEndpoint, ModelUri
from florencectl.output import note

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TEXT_SUFFIX = ".txt"
IMAGES_AT_ONCE = 64
"""Decoded at a time: many large images need the memory of a few."""


def embed(
    model: ModelUri,
    files: Annotated[
        list[str],
        typer.Argument(
            help="JPEG, PNG, WebP, video and .txt files, folders or globs of them, or s3:// URIs; "
            "- reads names from stdin, one a line."
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help=f"A file that ends in {', '.join(FILES)}; or one of {', '.join(PRINTED)}, to "
            "print them.",
        ),
    ],
    device: Device = None,
    endpoint: ModelEndpoint = None,
) -> None:
    """Write the embeddings of images, videos and texts to a file, or print them.

    A .txt file holds one text. For each file there is its name, as given, and its embedding, an
    fp32 row of unit length: the dot product of two rows is their similarity. A .npz has the arrays
    'names' and 'embeddings', the other formats a 'name' and an 'embedding' (csv: a column for each
    of its numbers) a row.

    Files that cannot be used are named on stderr and left out, and the exit code is then 3.
    """
    s3 = S3Settings(endpoint=endpoint)
    check_target(output)
    bad = BadFiles()
    suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, TEXT_SUFFIX)
    names = files_named(files, suffixes, stdin=sys.stdin, refuse=bad.add)
    rows = embeddings_of(model, names, device=device, s3=s3, refuse=bad.add)
    if rows:
        write(output, rows)
        if output not in PRINTED:
            note(f"{len(rows)} embeddings of length {len(rows[0][1])} written to {output}")
    bad.exit()


def embeddings_of(
    model_uri: str,
    files: Sequence[str],
    *,
    device: str | None,
    s3: S3Settings,
    refuse: Callable[[str], None],
) -> list[tuple[str, NDArray[np.float32]]]:
    """Embeddings (D,) fp32 with their files' names, in the order given.

    Images are decoded some at a time.

    Args:
        refuse: told in a line what is wrong with a file, which then has none.
    """
    if not files:  # nothing that would be worth loading torch
        return []
    from florence.loading import load
    from florencectl.inference import contents_of, pictures_of

    is_text = {name: name.lower().endswith(TEXT_SUFFIX) for name in files}
    texts = list(texts_of([name for name in files if is_text[name]], s3, refuse))
    is_video = {name: name.lower().endswith(VIDEO_SUFFIXES) for name in files}
    images = [name for name in files if not is_text[name] and not is_video[name]]
    videos = [name for name in files if is_video[name]]
    if not texts and not images and not videos:
        return []
    model = load(resolved(model_uri, s3), device=device, s3=s3)
    found: dict[str, NDArray[np.float32]] = {}
    if texts:
        rows = model.embed_texts([text for _, text in texts]).numpy()
        found |= zip((name for name, _ in texts), rows, strict=True)

    def embed_some(some: Sequence[str]) -> None:
        if pictures := list(pictures_of(some, s3, refuse)):
            rows = model.embed_images([image for _, image in pictures]).numpy()
            found.update(zip((name for name, _ in pictures), rows, strict=True))

    for part in in_parts(images, IMAGES_AT_ONCE):
        embed_some(part)
    for name, content in contents_of(videos, s3, refuse):
        try:
            found[name] = model.embed_videos([content]).numpy()[0]
        except ValueError as error:
            refuse(f"{name}: {str(error).removeprefix('row 0: video: ')}")
    return [(name, found[name]) for name in files if name in found]


def texts_of(
    names: Iterable[str], s3: S3Settings, refuse: Callable[[str], None]
) -> Iterator[tuple[str, str]]:
    """Text files by name; what is wrong with those left out is told in a line."""
    from florencectl.inference import content

    for name in names:
        try:
            yield name, content(name, s3).decode("utf-8").strip()
        except UnicodeDecodeError:
            refuse(f"{name}: not a UTF-8 text")
        except DataError as error:
            refuse(str(error))

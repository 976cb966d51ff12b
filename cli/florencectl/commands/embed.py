"""``florencectl embed``: embeddings of image and text files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from florence.errors import ConfigurationError, DataError
from florencectl.output import note

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TEXT_SUFFIX = ".txt"
IMAGES_AT_ONCE = 64
"""Decoded at a time: many large images need the memory of a few."""


def embed(
    model: Annotated[str, typer.Argument(help="Folder or s3:// URI of a model or of a stage.")],
    files: Annotated[list[Path], typer.Argument(help="JPEG, PNG, WebP and .txt files.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .npz file to write.")],
) -> None:
    """Write the embeddings of images and texts to a file.

    A .txt file holds one text. The .npz holds 'names', the files as given, and 'embeddings', one
    fp32 row of unit length for each: the dot product of two rows is their similarity.
    """
    check_target(output)
    embeddings = embeddings_of(model, files)
    write_npz(output, [str(path) for path in files], embeddings)
    note(f"{len(files)} embeddings of length {embeddings.shape[1]} written to {output}")


def check_target(output: Path) -> None:
    """Refuse a target that cannot be written, before the work that would be lost."""
    if output.suffix != ".npz":
        raise ConfigurationError(f"{output}: the name of the output must end in .npz")
    if output.is_dir():
        raise ConfigurationError(f"{output}: is a folder: give the name of a file")
    folder = output.absolute().parent
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: no such folder: create it first")
    if not os.access(folder, os.W_OK):
        raise ConfigurationError(f"{folder}: cannot be written to: choose another folder")


def embeddings_of(model_uri: str, files: list[Path]) -> NDArray[np.float32]:
    """Embeddings (len(files), D) fp32 in the order of the files."""
    import numpy as np

    from florence.loading import content_of, load
    from florencectl.inference import decoded

    is_text = np.array([path.suffix.lower() == TEXT_SUFFIX for path in files])
    texts = []
    for path in (path for path in files if path.suffix.lower() == TEXT_SUFFIX):
        try:
            content = content_of(path)
            assert isinstance(content, bytes)
            texts.append(content.decode("utf-8").strip())
        except UnicodeDecodeError:
            raise DataError(f"{path}: not a UTF-8 text") from None
    model = load(model_uri)
    images = [path for path in files if path.suffix.lower() != TEXT_SUFFIX]
    parts = []
    if images:
        pieces = [
            model.embed_images([decoded(path, content_of(path)) for path in some]).numpy()
            for some in (
                images[start : start + IMAGES_AT_ONCE]
                for start in range(0, len(images), IMAGES_AT_ONCE)
            )
        ]
        parts.append((~is_text, np.concatenate(pieces)))
    if texts:
        parts.append((is_text, model.embed_texts(texts).numpy()))
    result = np.empty((len(files), parts[0][1].shape[1]), np.float32)
    for rows, embeddings in parts:
        result[rows] = embeddings
    return result


def write_npz(output: Path, names: list[str], embeddings: NDArray[np.float32]) -> None:
    """Write the file whole or not at all."""
    import numpy as np

    from florence.storage import FolderStorage

    buffer = io.BytesIO()
    np.savez(buffer, names=np.array(names), embeddings=embeddings)
    target = output.absolute()
    FolderStorage(target.parent).write(target.name, buffer.getvalue())

"""Class folders: ``SOURCE/<class>/…/image.jpg``, numbered in the order of the folders' names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from florence.config.storage import S3Settings
from florence.data.archive import IMAGE_EXTENSIONS
from florence.data.importing.rows import Row, Source, StoredBytes, fingerprint, read_class_names
from florence.data.importing.settings import ClassFolders
from florence.errors import ConfigurationError, DataError
from florence.storage import Entry, Storage, open_storage


def is_image(key: str) -> bool:
    """Whether a file's name says that it is an image that can be read; hidden files are not."""
    name = key.rpartition("/")[2]
    return not name.startswith(".") and name.lower().rpartition(".")[2] in IMAGE_EXTENSIONS


def images_in_folders(storage: Storage) -> list[Entry]:
    """The images that lie in sub-folders of a storage, by name."""
    return [
        entry
        for entry in storage.list()
        if "/" in entry.key and not entry.key.startswith(".") and is_image(entry.key)
    ]


def open_class_folders(
    sources: Sequence[str], settings: ClassFolders, s3: S3Settings | None
) -> Source:
    """Open folders of class folders; classes of the same name in several sources are one.

    Raises:
        DataError: a source has no sub-folder with images.
        ConfigurationError: ``classes`` does not name every folder.
    """
    found: list[tuple[Storage, list[Entry]]] = []
    for uri in sources:
        storage = open_storage(uri, s3)
        entries = images_in_folders(storage)
        if not entries:
            raise DataError(
                f"{storage.uri} has no sub-folders of images (.jpg, .png, .webp), one for each "
                "class: check the path"
            )
        found.append((storage, entries))
    folders = sorted({entry.key.partition("/")[0] for _, entries in found for entry in entries})
    names = read_class_names(settings.classes, s3) if settings.classes else tuple(folders)
    if len(names) != len(folders):
        raise ConfigurationError(
            f"classes: {settings.classes} has {len(names)} names for {len(folders)} folders: "
            "name every folder, in their order"
        )
    number = {folder: index for index, folder in enumerate(folders)}

    def rows() -> Iterator[Row]:
        for storage, entries in found:
            for entry in entries:
                index = number[entry.key.partition("/")[0]]
                yield Row(
                    where=storage.url(entry.key),
                    source=entry.key,
                    image=StoredBytes(storage, entry.key),
                    text=names[index],
                    class_index=index,
                )

    identity = [[fingerprint(entries) for _, entries in found], names]
    name = sources[0].rstrip("/").rpartition("/")[2]
    return Source(name=name, identity=identity, rows=rows, class_names=names)

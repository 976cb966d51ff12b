"""Class folders: ``SOURCE/<class>/…/image.jpg``, numbered by the list of classes or by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from florence.config.storage import S3Settings
from florence.data.archive import IMAGE_EXTENSIONS
from florence.data.importing.rows import Row, Source, StoredBytes, fingerprint, read_named_folders
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
        ConfigurationError: ``classes`` does not name the folders; the message has those of both.
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
    numbered = tuple((folder, folder) for folder in folders)
    if settings.classes:
        numbered = read_named_folders(settings.classes, s3)
        _refuse_others(settings.classes, [folder for folder, _ in numbered], folders)
    number = {folder: index for index, (folder, _) in enumerate(numbered)}
    names = tuple(name for _, name in numbered)

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


def _refuse_others(uri: str, listed: Sequence[str], folders: Sequence[str]) -> None:
    extra = [name for name in listed if name not in folders]
    missing = [name for name in folders if name not in listed]
    if extra or missing:
        raise ConfigurationError(
            f"classes: {uri} names {len(listed)} folders and there are {len(folders)}; only the "
            f"file has {_shown(extra)}, only the data has {_shown(missing)}: list every folder, "
            'with another name as a JSON object {"folder": "name"}'
        )


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(f"'{name}'" for name in names[:5]) + more or "nothing"

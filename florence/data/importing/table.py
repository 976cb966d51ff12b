"""Tables with an image in each row: csv, tsv and parquet, read as a stream."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from florence.config.storage import S3Settings
from florence.data.archive import StoredFile
from florence.data.importing.rows import (
    BrokenRow,
    Bytes,
    ImageFolder,
    Row,
    Source,
    fingerprint,
    read_class_names,
    split_uri,
    stored_file,
)
from florence.data.importing.settings import Table
from florence.errors import ConfigurationError, DataError
from florence.storage import Entry, Storage

IMAGE_COLUMNS = ("image", "filepath", "file_name", "path")
TEXT_COLUMNS = ("caption", "text")
_MOST_CLASSES = 1_000_000
_BATCH_ROWS = 256

Values = Mapping[str, Any]
Reader = Callable[[str, Storage, Entry, Sequence[str] | None], Iterator[Values | str]]
"""Rows of a file as values by column, or as what is wrong with the row; only some columns are
needed when they are given. Called with the file's URI for messages."""


def open_csv(sources: Sequence[str], settings: Table, s3: S3Settings | None) -> Source:
    """Open comma-separated files. Raises as :func:`_open`."""
    return _open(sources, settings, s3, _separated(","), _separated_header(","))


def open_tsv(sources: Sequence[str], settings: Table, s3: S3Settings | None) -> Source:
    """Open tab-separated files. Raises as :func:`_open`."""
    return _open(sources, settings, s3, _separated("\t"), _separated_header("\t"))


def open_parquet(sources: Sequence[str], settings: Table, s3: S3Settings | None) -> Source:
    """Open parquet files. Raises as :func:`_open`."""
    return _open(sources, settings, s3, _parquet_rows, _parquet_header)


@dataclass(frozen=True)
class _Columns:
    """The columns that are read; ``image`` there is always."""

    image: str
    text: str | None
    label: str | None
    query: str | None

    @property
    def names(self) -> list[str]:
        return [c for c in (self.image, self.text, self.label, self.query) if c is not None]


@dataclass(frozen=True)
class _Classes:
    """How labels become numbers: by name, or as they stand when all are numbers."""

    names: tuple[str, ...] | None
    numbers: Mapping[str, int] | None

    def number(self, label: str) -> int:
        """The class number. Raises ``ValueError`` for a label that is no class."""
        if self.numbers is None or (label not in self.numbers and _is_number(label)):
            if not _is_number(label):
                raise ValueError(f"the label '{label}' is no class number: give one from 0 on")
            number = int(label)
            if number >= 1 << 31 or (self.names is not None and number >= len(self.names)):
                raise ValueError(f"there is no class {label}: correct it, or the list of classes")
            return number
        if label not in self.numbers:
            raise ValueError(f"'{label}' is not in the list of classes: add or correct it")
        return self.numbers[label]


def _open(
    sources: Sequence[str],
    settings: Table,
    s3: S3Settings | None,
    read: Reader,
    header: Callable[[str, Storage, Entry], list[str]],
) -> Source:
    """Open files of one kind.

    Raises:
        DataError: a file is missing or is not of the kind.
        ConfigurationError: there is no image column, or neither texts nor labels.
    """
    files = [(uri, *stored_file(uri, s3)) for uri in sources]
    columns = [
        _columns(uri, header(uri, storage, entry), settings) for uri, storage, entry in files
    ]
    classes = _classes(files, columns, settings, s3, read)

    def rows() -> Iterator[Row | BrokenRow]:
        for (uri, storage, entry), chosen in zip(files, columns, strict=True):
            folder = ImageFolder(settings.images or split_uri(uri)[0], s3)
            for number, values in enumerate(read(uri, storage, entry, chosen.names), 1):
                where = f"{uri} row {number}"
                if isinstance(values, str):
                    yield BrokenRow(where, values)
                    continue
                try:
                    yield _row(where, values, chosen, classes, folder)
                except ValueError as error:
                    yield BrokenRow(where, str(error))

    return Source(
        name=split_uri(sources[0])[1].rpartition(".")[0],
        identity=[fingerprint([entry for _, _, entry in files]), classes.names],
        rows=rows,
        class_names=classes.names,
    )


def _row(
    where: str, values: Values, columns: _Columns, classes: _Classes, folder: ImageFolder
) -> Row:
    image, name = _image(values.get(columns.image), folder)
    text = _text(values, columns.text)
    label = _text(values, columns.label)
    if columns.text and not text:
        raise ValueError(f"'{columns.text}' is empty: write a text or remove the row")
    if columns.label and not label:
        raise ValueError(f"'{columns.label}' is empty: write a class or remove the row")
    number = classes.number(label) if label else None
    if not text and number is not None and classes.names is not None:
        text = classes.names[number]
    query = _text(values, columns.query)
    return Row(
        where=where,
        source=name,
        image=image,
        text=text or None,
        class_index=number,
        meta={"query": query} if query else {},
    )


def _image(value: Any, folder: ImageFolder) -> tuple[Bytes, str]:
    """An image's bytes or path; Hugging Face's tables have both, the path then being a name."""
    if isinstance(value, Mapping):
        path = value.get("path")
        name = path if isinstance(path, str) else ""
        if value.get("bytes"):
            return bytes(value["bytes"]), name
        value = name
    if isinstance(value, bytes):
        return value, ""
    name = "" if value is None else str(value)
    return folder.find(name), name.strip()


def _text(values: Values, column: str | None) -> str:
    value = values.get(column) if column else None
    return "" if value is None else str(value).strip()


def _columns(uri: str, present: Sequence[str], settings: Table) -> _Columns:
    listed = ", ".join(present) or "none"

    def chosen(asked: str | None, usual: Sequence[str], field: str) -> str | None:
        if asked is not None and asked not in present:
            raise ConfigurationError(f"{field}: {uri} has no column '{asked}', but {listed}")
        return asked or next((name for name in usual if name in present), None)

    image = chosen(settings.image_column, IMAGE_COLUMNS, "imageColumn")
    text = chosen(settings.text_column, TEXT_COLUMNS, "textColumn")
    label = chosen(settings.label_column, ("label",), "labelColumn")
    query = chosen(settings.query_column, ("query",), "queryColumn")
    if image is None:
        raise ConfigurationError(
            f"imageColumn: {uri} has none of {', '.join(IMAGE_COLUMNS)}, but {listed}: name it"
        )
    if text is None and label is None:
        raise ConfigurationError(
            f"textColumn: {uri} has neither texts ({', '.join(TEXT_COLUMNS)}) nor a label, but "
            f"{listed}: name textColumn or labelColumn"
        )
    return _Columns(image, text, label, query)


def _classes(
    files: Sequence[tuple[str, Storage, Entry]],
    columns: Sequence[_Columns],
    settings: Table,
    s3: S3Settings | None,
    read: Reader,
) -> _Classes:
    """Number the labels: by the given list, as they are, or in the order of their names."""
    if settings.classes is not None:
        if not any(c.label for c in columns):
            raise ConfigurationError("classes: the table has no label column: name labelColumn")
        names = read_class_names(settings.classes, s3)
        return _Classes(names, {name: number for number, name in enumerate(names)})
    found: set[str] = set()
    for (uri, storage, entry), chosen in zip(files, columns, strict=True):
        if chosen.label is None:
            continue
        for values in read(uri, storage, entry, [chosen.label]):
            if not isinstance(values, str):
                found.add(_text(values, chosen.label))
        if len(found) > _MOST_CLASSES:
            raise ConfigurationError(
                f"labelColumn: '{chosen.label}' of {uri} has over {_MOST_CLASSES:,} different "
                "values: is it a text? then name it textColumn"
            )
    found.discard("")
    if all(_is_number(label) for label in found):
        return _Classes(None, None)
    names = tuple(sorted(found))
    return _Classes(names, {name: number for number, name in enumerate(names)})


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdecimal() and len(label) < 12


def _lines(uri: str, storage: Storage, entry: Entry, delimiter: str) -> Iterator[list[str]]:
    """The fields of every line that is not blank."""
    csv.field_size_limit(min(sys.maxsize, 1 << 24))
    raw = io.BufferedReader(StoredFile(storage, entry.key, entry.size), 1 << 20)
    try:
        with io.TextIOWrapper(raw, "utf-8-sig", newline="") as file:
            # Tab-separated texts use quotes as quotes; in csv they enclose.
            lines = (
                csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)
                if delimiter == "\t"
                else csv.reader(file, delimiter=delimiter)
            )
            for fields in lines:
                if fields:
                    yield fields
    except UnicodeDecodeError as error:
        raise DataError(f"{uri} is not UTF-8: {error.reason}: convert it") from error
    except csv.Error as error:
        raise DataError(f"{uri} is no valid table: {error}: mend it") from error


def _separated_header(delimiter: str) -> Callable[[str, Storage, Entry], list[str]]:
    def header(uri: str, storage: Storage, entry: Entry) -> list[str]:
        first = next(_lines(uri, storage, entry, delimiter), None)
        if first is None:
            raise DataError(f"{uri} is empty: give a table with a header")
        return [name.strip() for name in first]

    return header


def _separated(delimiter: str) -> Reader:
    def rows(
        uri: str, storage: Storage, entry: Entry, needed: Sequence[str] | None
    ) -> Iterator[Values | str]:
        del needed  # a line is read whole
        lines = _lines(uri, storage, entry, delimiter)
        names = [name.strip() for name in next(lines, [])]
        for fields in lines:
            if len(fields) != len(names):
                yield f"has {len(fields)} fields instead of {len(names)}: quote texts, add fields"
            else:
                yield dict(zip(names, fields, strict=True))

    return rows


def _parquet(uri: str, storage: Storage, entry: Entry) -> Any:
    import pyarrow
    from pyarrow import parquet

    raw = io.BufferedReader(StoredFile(storage, entry.key, entry.size), 1 << 20)
    try:
        return parquet.ParquetFile(raw)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{uri} is no parquet file: {_one_line(error)}: fetch it again") from error


def _parquet_header(uri: str, storage: Storage, entry: Entry) -> list[str]:
    return list(_parquet(uri, storage, entry).schema_arrow.names)


def _parquet_rows(
    uri: str, storage: Storage, entry: Entry, needed: Sequence[str] | None
) -> Iterator[Values | str]:
    import pyarrow

    file = _parquet(uri, storage, entry)
    try:
        for batch in file.iter_batches(_BATCH_ROWS, columns=needed):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{uri} is damaged: {_one_line(error)}: fetch it again") from error


def _one_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]

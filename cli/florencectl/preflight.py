"""What is cheap to check of all stages before the first one starts: a few looks, never torch."""

from __future__ import annotations

import importlib.util
import os
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from florence.config import EngineKind, Retrieval, RetrievalFormat, Training
from florence.config.base import Holds, Location, located
from florence.errors import (
    ConfigurationError,
    DataError,
    FlorenceError,
    MissingExtraError,
    TransientError,
)
from florence_jobs.registry.references import is_reference, parse_reference
from florence_operator.api import JobStatus, State
from florencectl.model_uris import resolved
from florencectl.output import note

if TYPE_CHECKING:
    from florence.config.storage import S3Settings
    from florence_operator.api import FlorenceJob

LONGEST_WAIT = 1.5
"""Seconds that a storage service has to answer; one that does not is left to the stage."""
_MOST_ENTRIES = 20_000
_IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_COMMIT = re.compile(r"commit(-\d+)?\.json")


@dataclass(frozen=True)
class _Look:
    """One thing to look at; ``what`` names it in messages."""

    what: str
    uri: str
    remote: bool
    look: Callable[[], None]


def check_uris(job: FlorenceJob) -> None:
    """Refuse what no machine could open: malformed URIs, and built-in data that does not exist.

    Raises:
        ConfigurationError: names the fields.
    """
    looks = [
        _Look(where, found.uri, False, lambda uri=found.uri: _check_form(uri))  # type: ignore[misc]
        for where, found in _locations(job)
    ]
    if job.spec.artifacts.uri:
        uri = job.spec.artifacts.uri
        looks.append(_Look("spec.artifacts.uri", uri, False, lambda: _check_form(uri)))
    _run(looks, 0)


def check_local(job: FlorenceJob, *, artifacts: str, seconds: float | None = None) -> None:
    """Refuse what a run on this machine would fail over, in any stage that is not done.

    Args:
        job: the job.
        artifacts: URI that its artifacts go below where it does not say.
        seconds: how long services may take to answer; default: :data:`LONGEST_WAIT`.

    Raises:
        FlorenceError: with a line for each finding, and the exit code of the first.
        MissingExtraError: a package is not installed.
    """
    for package, extra in _packages(job):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, extra)
    check_uris(job)
    artifacts = (job.spec.artifacts.uri or artifacts).rstrip("/")
    # What the job's own stages write may come to be.
    own = f"{artifacts}/{job.namespace}/{job.metadata.name}/"
    s3 = job.spec.artifacts.s3.model_copy(update={"attempts": 1})
    looks = [
        _Look(
            where,
            found.uri,
            found.uri.startswith("s3://"),
            lambda where=where, found=found: _check_input(where, found, s3),  # type: ignore[misc]
        )
        for where, found in _locations(job)
        if not f"{found.uri}/".startswith(own)
    ]
    remote = artifacts.startswith("s3://")
    # Credentials of a namespace may write below its own folder only.
    target = f"{artifacts}/{job.namespace}" if remote else artifacts
    looks.append(_Look("spec.artifacts.uri", artifacts, remote, lambda: _writable(target, s3)))
    _run(looks, LONGEST_WAIT if seconds is None else seconds)


def _packages(job: FlorenceJob) -> Iterator[tuple[str, str]]:
    yield "torch", "train"
    for stage in job.spec.stages:
        if isinstance(stage.config, Training) and stage.config.engine is EngineKind.DEEPSPEED:
            yield "deepspeed", "deepspeed"


def _locations(job: FlorenceJob) -> Iterator[tuple[str, Location]]:
    status = job.status or JobStatus()
    for index, stage in enumerate(job.spec.stages):
        if status.stage(stage.name).state is State.SUCCEEDED:
            continue
        for found in located(stage):
            yield f"spec.stages[{index}].{found.field}", found


def _run(looks: list[_Look], seconds: float) -> None:
    """Take all looks, the remote ones side by side, and raise what they found in their order."""
    if any(look.remote for look in looks):
        import boto3  # noqa: F401  (before the clock runs)
    found: dict[int, FlorenceError | None] = {}

    def take(number: int) -> None:
        try:
            looks[number].look()
            found[number] = None
        except FlorenceError as error:
            found[number] = error

    waiting = []
    for number, look in enumerate(looks):
        if look.remote:
            # Not waited for when it takes too long, nor at the end of the program.
            thread = threading.Thread(target=take, args=(number,), name=look.what, daemon=True)
            thread.start()
            waiting.append(thread)
        else:
            take(number)
    end = time.monotonic() + seconds
    for thread in waiting:
        thread.join(max(0.0, end - time.monotonic()))
    answered = dict(found)  # what comes later comes too late
    errors = [
        _at(looks[n].what, error) for n in sorted(answered) if (error := answered[n]) is not None
    ]
    if errors:
        kinds = (ConfigurationError, DataError, TransientError)
        kind = next((kind for kind in kinds if isinstance(errors[0][1], kind)), FlorenceError)
        raise kind("\n".join(dict.fromkeys(line for line, _ in errors)))
    for number, look in enumerate(looks):
        if number not in answered:
            note(
                f"{look.what}: {look.uri} did not answer within {seconds:g} s; going on without it"
            )


def _at(what: str, error: FlorenceError) -> tuple[str, FlorenceError]:
    message = str(error)
    return (message if message.startswith(f"{what}: ") else f"{what}: {message}"), error


def _check_form(uri: str) -> None:
    from florence.storage.opening import check_uri

    if is_reference(uri):
        parse_reference(uri)
    elif not uri.startswith("builtin:"):
        check_uri(uri)
    elif importlib.util.find_spec("numpy") is not None:  # the train extra
        from florence.data.builtin import check_name

        check_name(uri)


def _check_input(where: str, found: Location, s3: S3Settings) -> None:
    if found.uri.startswith("builtin:"):
        return
    if found.holds is Holds.MODEL and is_reference(found.uri):
        resolved(found.uri, s3)
        return
    remote = found.uri.startswith("s3://")
    is_file = found.holds in (Holds.PROMPTS, Holds.TEMPLATES)  # a path as it stands
    path = Path(found.uri if is_file else found.uri.removeprefix("file://"))
    path = path if is_file else path.expanduser()
    if not remote:
        _readable(path)
    if found.holds is Holds.PROMPTS:
        _prompts(found.uri, s3)
    elif found.holds is Holds.TEMPLATES:
        from florence.text.templates import load_templates

        load_templates(found.uri, where, s3=s3)
    elif remote:
        _stored(found.uri, s3)
    elif found.holds is Holds.MODEL:
        _model(path)
    elif found.holds is Holds.DATA:
        _data(path, found)


def _readable(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder: check the path")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise ConfigurationError(f"{path}: cannot be read: check its permissions")


def _prompts(uri: str, s3: S3Settings) -> None:
    from florence.evaluation.prompts import load_prompts

    try:
        load_prompts(uri, s3)
    except ConfigurationError as error:
        raise ConfigurationError(str(error).removeprefix("prompts: ")) from error


def _stored(uri: str, s3: S3Settings) -> None:
    """That a bucket answers, and holds the object or something under the prefix."""
    from florence.storage import MissingKeyError, open_storage
    from florence.storage.s3 import S3Storage

    folder, _, name = uri.rstrip("/").rpartition("/")
    storage = open_storage(uri, s3)
    assert isinstance(storage, S3Storage)
    if storage.is_empty() and (folder == "s3:/" or open_storage(folder, s3).size(name) is None):
        raise MissingKeyError(uri)


def _writable(uri: str, s3: S3Settings) -> None:
    if uri.startswith("s3://"):
        from florence.storage import open_storage

        storage, key = open_storage(uri, s3), f".florence-check-{uuid.uuid4().hex}"
        storage.write(key, b"")
        storage.delete(key)
        return
    path = Path(uri.removeprefix("file://")).expanduser().absolute()
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise ConfigurationError(f"{there} is a file: give a folder")
    try:
        tempfile.TemporaryFile(dir=there).close()  # it never has a name
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written ({error.strerror}): check the permissions of {there}"
        ) from error


def _model(path: Path) -> None:
    """That a folder is one of a model: its two files, or a stage's that has committed one."""
    names = {entry.name for folder in (path, path / "model") for entry in _entries(folder)}
    if "config.json" not in names and not any(map(_COMMIT.fullmatch, names)):
        raise DataError(
            f"{path} holds no model: give a folder with config.json and model.safetensors, or that "
            "of a stage which has finished"
        )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    return list(os.scandir(folder)) if folder.is_dir() else []


def _data(path: Path, found: Location) -> None:
    """That a path is of a form that stages read, by names alone."""
    if path.is_file():
        from florence.data.importing.registry import FORMATS

        known = (
            ".tar",
            ".json",
            *(suffix for each in FORMATS.values() for suffix in each.suffixes),
        )
        if not path.name.lower().endswith(known):
            raise DataError(
                f"{path} is a file of no known form ({', '.join(known)}): give one of these, or a "
                "folder"
            )
        return
    captioned = isinstance(found.owner, Retrieval) and found.owner.format is RetrievalFormat.FOLDER
    seen = _seen_in(path)
    if seen is None or "shards" in seen or "classes" in seen or (captioned and "images" in seen):
        return
    if "compressed" in seen:
        raise DataError(
            f"{path} holds compressed shards, which cannot be read: unpack them to .tar"
        )
    if "images" in seen:
        raise DataError(
            f"{path} holds images, but neither shards (*.tar) nor a sub-folder for each class: "
            "sort the images into sub-folders, or list them with their texts in a csv file"
        )
    raise DataError(
        f"{path} holds neither shards (*.tar) nor images in sub-folders, one for each class: "
        "check the path"
    )


def _seen_in(folder: Path) -> set[str] | None:
    """What a folder holds; ``None`` when so much is there that a look does not tell."""
    seen: set[str] = set()
    entries = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            lower = name.lower()
            if lower.endswith(".tar"):
                return {"shards"}
            if lower.endswith((".tar.gz", ".tgz", ".tar.zst")):
                seen.add("compressed")
            elif lower.endswith(_IMAGES) and not lower.startswith("."):
                seen.add("images" if parent == str(folder) else "classes")
        entries += len(names)
        if "classes" in seen or entries > _MOST_ENTRIES:
            return seen if "classes" in seen else None
    return seen

"""Class names and prompt templates: those of the field's data sets, or from a user's YAML file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from florence.config.evaluations import PROMPT_SETS, Metric
from florence.config.storage import S3Settings
from florence.config.yaml_document import MOST_BYTES, DocumentError, read_yaml
from florence.errors import ConfigurationError
from florence.storage import open_storage
from florence.text.templates import BUILTIN, GAP

FIELDS = ("classes", "templates", "metric", "folders", "title", "images")


@dataclass(frozen=True)
class Prompts:
    """What a zero-shot classifier is made of."""

    classes: tuple[str, ...]
    """Names in the order of the labels."""
    templates: tuple[str, ...]
    """Sentences with ``{}`` where the name goes."""
    metric: Metric = Metric.ACCURACY
    """The number by which this data set is compared."""
    folders: tuple[str, ...] | None = None
    """What the data set calls its class folders, by class; None where that is the names."""
    title: str | None = None
    """The data set's name for people."""
    train_images: int | None = None
    test_images: int | None = None
    """How many images the published figures are about."""


def load_prompts(source: str, s3: S3Settings | None = None) -> Prompts:
    """The prompts of a data set that comes with the package, or those of a YAML file.

    Args:
        source: one of ``florence.config.PROMPT_SETS``, or the path or ``s3://`` URI of a file with
            the lists ``classes`` and ``templates``. Without ``templates`` the names stand for
            themselves; a name of a built-in list (``imagenet``, ``digits``) is that list.
            ``folders`` names the class folders where those are not the classes' names, ``metric``
            is one of :class:`florence.config.Metric`, ``title`` and ``images`` (``train``,
            ``test``: how many) are for people.
        s3: where ``s3://`` is.

    Raises:
        ConfigurationError: the file is missing, no YAML, or not of that form.
    """
    try:
        if source in PROMPT_SETS:
            content = (resources.files("florence.evaluation") / "prompt_sets").joinpath(
                f"{source}.yaml"
            )
            document = read_yaml(content.read_bytes())
        else:
            document = read_yaml(_read(source, s3))
    except OSError as error:
        raise ConfigurationError(
            f"prompts: cannot read '{source}': {error.strerror or error}; "
            f"give the path of a YAML file, or one of {', '.join(PROMPT_SETS)}"
        ) from error
    except DocumentError as error:
        raise ConfigurationError(f"prompts: '{source}' {error}") from error
    return parse_prompts(document, source)


def _read(source: str, s3: S3Settings | None) -> bytes:
    if not source.startswith("s3://"):
        with Path(source).open("rb") as file:
            return file.read(MOST_BYTES + 1)
    folder, _, name = source.rpartition("/")
    return open_storage(folder, s3).read_range(name, 0, MOST_BYTES + 1)


def parse_prompts(document: Any, source: str) -> Prompts:
    """Check a document as :func:`load_prompts` describes it; ``source`` is for messages."""
    if not isinstance(document, dict):
        raise ConfigurationError(
            f"prompts: '{source}' must hold two lists, 'classes' and 'templates'"
        )
    unknown = sorted(set(map(str, document)) - set(FIELDS))
    if unknown:
        raise ConfigurationError(
            f"prompts: '{source}' has the unknown field '{unknown[0]}': "
            f"only {', '.join(FIELDS)} are read"
        )
    classes = _texts(document.get("classes"), "classes", source)
    folders = _folders(document, len(classes), source)
    if folders is None:  # else those tell classes of the same name apart
        _refuse_twice(classes, "class", source)
    train, test = _image_counts(document.get("images"), source)
    return Prompts(
        classes,
        _templates(document.get("templates", [GAP]), source),
        _metric(document.get("metric", Metric.ACCURACY), source),
        folders,
        document.get("title"),
        train,
        test,
    )


def _templates(value: Any, source: str) -> tuple[str, ...]:
    if isinstance(value, str) and value in BUILTIN:
        return BUILTIN[value]
    templates = _texts(value, "templates", source)
    for index, template in enumerate(templates):
        if GAP not in template:
            raise ConfigurationError(
                f"prompts: '{source}' templates[{index}] '{template}' has no {GAP} for the name"
            )
    return templates


def _folders(document: dict[Any, Any], classes: int, source: str) -> tuple[str, ...] | None:
    if "folders" not in document:
        return None
    folders = _texts(document["folders"], "folders", source)
    if len(folders) != classes:
        raise ConfigurationError(
            f"prompts: '{source}' has {len(folders)} folders for {classes} classes: "
            "list one folder per class, in the order of the classes"
        )
    _refuse_twice(folders, "folder", source)
    return folders


def _refuse_twice(names: tuple[str, ...], what: str, source: str) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigurationError(f"prompts: '{source}' lists the {what} '{twice}' twice")


def _metric(value: Any, source: str) -> Metric:
    try:
        return Metric(value)
    except ValueError:
        known = ", ".join(Metric)
        raise ConfigurationError(
            f"prompts: '{source}' metric is {value!r}: use one of {known}"
        ) from None


def _image_counts(value: Any, source: str) -> tuple[int | None, int | None]:
    if value is None:
        return None, None
    counts = [value.get(split) for split in ("train", "test")] if isinstance(value, dict) else []
    if not counts or any(count is not None and not isinstance(count, int) for count in counts):
        raise ConfigurationError(
            f"prompts: '{source}' images is {value!r}: write {{train: 100, test: 20}}"
        )
    return counts[0], counts[1]


def _texts(value: Any, field: str, source: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ConfigurationError(f"prompts: '{source}' {field} must be a list that is not empty")
    for index, item in enumerate(value):
        # YAML reads a bare no, 1 or 2001-01-01 as something else than text; guessing the spelling
        # back would be wrong for some class one day.
        if not isinstance(item, str) or not item.strip():
            raise ConfigurationError(
                f"prompts: '{source}' {field}[{index}] is {item!r}, not a text: put it in quotes"
            )
    return tuple(value)

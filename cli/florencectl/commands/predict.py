"""``florencectl predict``: what a trained model says about image files."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from florence.config.storage import S3Settings
from florence.errors import ConfigurationError
from florence.kinds import MODEL_TASKS, model_task_named
from florence.tasks.inputs import FILES, Column, Parameter, texts_in
from florence.tasks.kind import ModelTask
from florencectl.failures import BadFiles
from florencectl.flags import with_parameters
from florencectl.input_files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, files_named, in_parts
from florencectl.options import Device, ModelEndpoint, ModelUri
from florencectl.output import DocumentFormat, print_csv, print_document, print_table

IMAGES_AT_ONCE = 64
"""Decoded at a time: many large images need the memory of a few."""

Answer = tuple[str, Mapping[str, Any]]
"""A file's name, and what the model says about it."""


class AnswerFormat(StrEnum):
    """The value of ``-o``."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    YAML = "yaml"


def _predict(
    model: ModelUri,
    images: Annotated[
        list[str],
        typer.Argument(
            help="JPEG, PNG or WebP files, or videos for models that take those; folders or globs "
            "of them, or s3:// URIs; - reads names from stdin, one a line."
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Labels shown of each image.")] = 3,
    output: Annotated[
        AnswerFormat, typer.Option("-o", "--output", help="table, csv, json or yaml.")
    ] = AnswerFormat.TABLE,
    device: Device = None,
    endpoint: ModelEndpoint = None,
    **given: Any,
) -> None:
    """Predict with a trained model; what it answers depends on what it was trained for.

    A two-tower model classifies images with words of your choice: each word is put into all
    templates, and the image goes to the word whose sentences are nearest. A model with a head
    classifies with the labels that it was trained with.

    Files that cannot be used are named on stderr, and the exit code is then 3.
    """
    # What the user wrote is checked before what takes long.
    s3 = S3Settings(endpoint=endpoint)
    values = {
        name: parsed(input_named(name), text, s3)
        for name, text in given.items()
        if text is not None
    }
    bad = BadFiles()
    suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    files = files_named(images, suffixes, stdin=sys.stdin, refuse=bad.add)
    answers = answers_of(
        model, files, values, offered={"top": top}, device=device, s3=s3, refuse=bad.add
    )
    show(answers, output, top)
    bad.exit()


def show(answers: Sequence[Answer], output: AnswerFormat, top: int) -> None:
    """Print answers by file; nothing where there are none."""
    if not answers:
        return
    if output is AnswerFormat.TABLE:
        print_table(*table_of(answers, top))
    elif output is AnswerFormat.CSV:
        print_csv(*table_of(answers, top))
    else:
        document = [{_noun(name): name, **rounded(answer)} for name, answer in answers]
        print_document(document, DocumentFormat(output.value))


def input_named(name: str) -> Column | Parameter:
    """The first input of that name of any task; those of one name are of one type."""
    every = (given for task in MODEL_TASKS.values() for given in task.inputs.given)
    return next(given for given in every if given.name == name)


def input_flags() -> list[inspect.Parameter]:
    """A flag for every input of any task's models but images, with the tasks that take it."""
    own = inspect.signature(_predict).parameters
    helps: dict[str, str] = {}
    takers: dict[str, list[str]] = {}
    for task in MODEL_TASKS.values():
        for given in (each for each in task.inputs.given if each.name not in own):
            helps.setdefault(given.name, given.help)
            takers.setdefault(given.name, []).append(task.name)
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Option(flag_of(name), help=f"{text} ({', '.join(takers[name])} models)"),
            ],
        )
        for name, text in helps.items()
    ]


def flag_of(name: str) -> str:
    """The flag of an input."""
    return f"--{name.replace('_', '-')}"


def command() -> Callable[..., None]:
    """The command, with a flag for every input of the models that are known now."""
    return with_parameters(_predict, input_flags(), name="predict")


predict = command()


def parsed(given: Column | Parameter, text: str, s3: S3Settings) -> Any:
    """The value of an input from the command line.

    Raises:
        ConfigurationError: it is not of the input's type; names the flag.
    """
    flag = flag_of(given.name)
    if given.type == "templates":
        return parse_templates(text, flag, s3)
    if given.type == "texts":
        return parse_labels(text, flag)
    if given.type == "seconds":
        return parse_seconds(text, flag)
    if given.type in ("number", "integer"):
        try:
            return int(text) if given.type == "integer" else float(text)
        except ValueError:
            raise ConfigurationError(f"{flag}: '{text}' is not a number") from None
    return text


def parse_seconds(text: str, flag: str) -> float:
    """A length of time: 2, 2s, 500ms or 1m. Raises :class:`ConfigurationError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", text.strip())
    if found is None:
        raise ConfigurationError(f"{flag}: '{text}' is no length of time: write 2s or 500ms")
    return float(found[1]) * {"ms": 0.001, "m": 60.0, "h": 3600.0}.get(found[2] or "s", 1.0)


def parse_labels(labels: str, flag: str = "--labels") -> list[str]:
    """The words between commas; see :func:`florence.tasks.inputs.texts_in`.

    Raises:
        ConfigurationError: there is none, or one comes twice.
    """
    names = texts_in(labels)
    if not names:
        raise ConfigurationError(f"{flag} names no word: write {flag} 'cat,dog'")
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"{flag} names '{name}' twice")
    return names


def parse_templates(name: str, flag: str, s3: S3Settings) -> tuple[str, ...]:
    """The templates of a built-in list or a text file, or those of an evaluation's prompts."""
    from florence.config.evaluations import PROMPT_SETS
    from florence.text.templates import BUILTIN, load_templates

    if name not in BUILTIN and (name in PROMPT_SETS or name.endswith((".yaml", ".yml"))):
        from florence.evaluation.prompts import load_prompts

        return load_prompts(name, s3).templates
    return load_templates(name, flag, s3=s3)


def check_inputs(task: ModelTask, given: Mapping[str, Any]) -> None:
    """Refuse inputs that models of a task do not take, and the lack of those that they need.

    Raises:
        ConfigurationError: names the flag, and the flags that such models take.
    """
    known = {each.name: each for each in task.inputs.given}
    for name in given:
        if name not in known:
            takes = ", ".join(flag_of(other) for other in known) or "no options of its own"
            raise ConfigurationError(
                f"{flag_of(name)} is not for {task.name} models, which take {takes}"
            )
    for name, each in known.items():
        if each.required and name not in given:
            raise ConfigurationError(
                f"{flag_of(name)} is needed by {task.name} models: {each.help}"
            )


def answers_of(
    model_uri: str,
    files: Sequence[str],
    given: Mapping[str, Any],
    *,
    offered: Mapping[str, Any],
    device: str | None,
    s3: S3Settings,
    refuse: Callable[[str], None],
) -> list[Answer]:
    """The model's answer for every image; images are read and decoded some at a time.

    Args:
        given: by name: the task's parameters, and columns that are the same for every image.
        offered: parameters that are passed on to models whose task takes them.
        refuse: told in a line what is wrong with an image, which then has no answer.

    Raises:
        DataError: there is no model.
        ConfigurationError: the model's task takes no such input, or needs one.
    """
    if not files:  # nothing that would be worth loading torch
        return []
    from florence.loading import load
    from florence.models.opening import read_card

    task = model_task_named(read_card(model_uri, s3).task)
    check_inputs(task, given)
    model = load(model_uri, device=device, s3=s3)
    names = {parameter.name for parameter in task.inputs.parameters}
    parameters = {name: value for name, value in {**offered, **given}.items() if name in names}
    columns = {name: value for name, value in given.items() if name not in names}

    media = next((column.type for column in task.inputs.columns if column.type in FILES), "image")
    files = [name for name in files if fits(name, media, task, refuse)]

    def answers_to(some: Sequence[str]) -> list[Answer]:
        pictures = list(media_of(media, some, s3, refuse))
        rows = [{media: content, **columns} for _, content in pictures]
        answers = model.predictor.predict(rows, parameters) if rows else []
        return [(name, answer) for (name, _), answer in zip(pictures, answers, strict=True)]

    parts = in_parts(files, IMAGES_AT_ONCE)
    return [answer for part in parts for answer in answers_to(part)]


def fits(name: str, media: str, task: ModelTask, refuse: Callable[[str], None]) -> bool:
    """Whether a file is one of images or videos, as the model takes; refuses it otherwise."""
    others = IMAGE_SUFFIXES if media == "video" else VIDEO_SUFFIXES
    if not name.lower().endswith(others):
        return True
    wanted = "videos" if media == "video" else "images"
    refuse(f"{name}: {task.name} models take {wanted}")
    return False


def media_of(
    media: str, names: Sequence[str], s3: S3Settings, refuse: Callable[[str], None]
) -> Iterator[tuple[str, Any]]:
    """Files by name as rows hold them: decoded images, or videos that can be opened."""
    from florencectl.inference import contents_of, pictures_of

    if media == "image":
        yield from pictures_of(names, s3, refuse)
        return
    from florence.data.video.files import BrokenClipError, open_clip

    for name, content in contents_of(names, s3, refuse):
        try:
            with open_clip(content) as clip:
                clip.frames([len(clip.times) // 2])
        except BrokenClipError as error:
            refuse(f"{name}: {error}")
        else:
            yield name, content


def table_of(answers: Sequence[Answer], top: int) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: the best labels where there are labels, else what each answer holds.

    Of answers with a timeline, its parts.
    """
    if all("timeline" in answer for _, answer in answers):
        rows = [
            [name, f"{part['start']:g} s", part["label"], f"{part['probability']:.4f}"]
            for name, answer in answers
            for part in answer["timeline"]
        ]
        return ["video", "start", "label", "probability"], rows
    if all("probabilities" in answer for _, answer in answers):
        rows = [
            [name, label, f"{probability:.4f}"]
            for name, answer in answers
            for label, probability in list(answer["probabilities"].items())[:top]
        ]
        return [_noun(answers[0][0]), "label", "probability"], rows
    columns = list(dict.fromkeys(column for _, answer in answers for column in answer))
    return [_noun(answers[0][0]), *columns], [
        [name, *(answer.get(column, "") for column in columns)] for name, answer in answers
    ]


def rounded(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The answer with its fractions at six places, and without what its labels repeat."""
    repeated = {"probability"} if "probabilities" in answer else set()
    return {name: _short(value) for name, value in answer.items() if name not in repeated}


def _noun(name: str) -> str:
    """What a file holds."""
    return "video" if name.lower().endswith(VIDEO_SUFFIXES) else "image"


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {name: _short(inner) for name, inner in value.items()}
    return [_short(inner) for inner in value] if isinstance(value, (list, tuple)) else value

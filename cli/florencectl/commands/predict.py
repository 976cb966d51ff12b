"""``florencectl predict``: what a trained model says about image or video files."""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from itertools import count, product
from pathlib import Path
from typing import Annotated, Any

import typer

from florence.config.storage import S3Settings
from florence.errors import ConfigurationError
from florence.kinds import MODEL_TASKS, model_task_named
from florence.tasks.inputs import Column, Parameter
from florencectl.drawings import Drawings
from florencectl.failures import BadFiles
from florencectl.flags import with_parameters
from florencectl.input_files import files_named, in_parts
from florencectl.input_values import check_inputs, flag_of, parsed
from florencectl.media_files import MEDIA_SUFFIXES, contents_for, fits, noun
from florencectl.model_uris import resolved
from florencectl.options import Device, ModelEndpoint, ModelUri
from florencectl.output import DocumentFormat, print_csv, print_document, print_table

IMAGES_AT_ONCE = 64
"""Decoded at a time: many large images need the memory of a few."""

Answer = tuple[str, Mapping[str, Any]]
"""A file's name, and what the model says about it."""

Results = Callable[[str, Mapping[str, Any]], list[dict[str, Any]]]
"""See :attr:`florence.tasks.kind.ModelTask.results`."""


class AnswerFormat(StrEnum):
    """The value of ``-o``."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    YAML = "yaml"

    @property
    def is_document(self) -> bool:
        """Whether it is for programs."""
        return self in (AnswerFormat.JSON, AnswerFormat.YAML)


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
    save: Annotated[
        Path | None,
        typer.Option(
            help="Folder for pictures of the answers, such as the images with boxes drawn in; for "
            "one image also a file's name."
        ),
    ] = None,
    show_attention: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Write a picture for each answer: where each word looks in the image "
            "(models that fuse image and text).",
        ),
    ] = None,
    device: Device = None,
    endpoint: ModelEndpoint = None,
    **given: Any,
) -> None:
    """Predict with a trained model; what it answers depends on what it was trained for.

    A two-tower model classifies images with words of your choice: each word is put into all
    templates, and the image goes to the word whose sentences are nearest. A model with a head
    classifies with the labels that it was trained with. A detector finds objects: -o json prints
    them as COCO's results, --save draws them.

    Files that cannot be used are named on stderr, and the exit code is then 3.
    """
    # What the user wrote is checked before what takes long.
    s3 = S3Settings(endpoint=endpoint)
    values = {
        name: parsed(input_named(name), text, s3)
        for name, text in given.items()
        if text is not None and text != []
    }
    bad = BadFiles()
    files = files_named(images, MEDIA_SUFFIXES, stdin=sys.stdin, refuse=bad.add)
    drawings = Drawings(save, files) if save is not None else None
    answers = answers_of(
        model,
        files,
        values,
        offered={"top": top},
        device=device,
        s3=s3,
        refuse=bad.add,
        drawings=drawings,
        attention=Path(show_attention) if show_attention is not None else None,
    )
    results = results_of(model, s3) if answers and output.is_document else None
    show(answers, output, top, results)
    bad.exit()


def results_of(model_uri: str, s3: S3Settings) -> Results | None:
    """What makes the field's own results of an answer, where the model's task has some."""
    from florence.models.opening import read_card

    name = model_task_named(read_card(model_uri, s3).task).results
    return pkgutil.resolve_name(name) if name else None


def show(
    answers: Sequence[Answer], output: AnswerFormat, top: int, results: Results | None = None
) -> None:
    """Print answers by file, as one list of results where they are such; nothing for none."""
    if not answers:
        return
    if output is AnswerFormat.TABLE:
        print_table(*table_of(answers, top))
    elif output is AnswerFormat.CSV:
        print_csv(*table_of(answers, top))
    elif results is not None:
        every = [_short(result) for name, answer in answers for result in results(name, answer)]
        print_document(every, DocumentFormat(output.value))
    else:
        document = [{noun(name): name, **rounded(answer)} for name, answer in answers]
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
                list[str] | None if is_column(name) else str | None,
                typer.Option(flag_of(name), help=f"{text} ({', '.join(takers[name])} models)"),
            ],
        )
        for name, text in helps.items()
    ]


def is_column(name: str) -> bool:
    """Whether an input is a text of every row: its flag may be repeated, a row for each text."""
    given = input_named(name)
    return isinstance(given, Column) and given.type == "text"


def command() -> Callable[..., None]:
    """The command, with a flag for every input of the models that are known now."""
    return with_parameters(_predict, input_flags(), name="predict")


predict = command()


def answers_of(
    model_uri: str,
    files: Sequence[str],
    given: Mapping[str, Any],
    *,
    offered: Mapping[str, Any],
    device: str | None,
    s3: S3Settings,
    refuse: Callable[[str], None],
    drawings: Drawings | None = None,
    attention: Path | None = None,
) -> list[Answer]:
    """The model's answer for every file; images are read and decoded some at a time.

    Args:
        given: by name: the task's parameters, and columns that are the same for every image; of a
            column with a list of texts every image has a row for each.
        offered: parameters that are passed on to models whose task takes them.
        refuse: told in a line what is wrong with an image, which then has no answer.
        drawings: takes a picture of every answer, where that is wanted.
        attention: folder for pictures of where words look.

    Raises:
        DataError: there is no model.
        ConfigurationError: the model's task takes no such input, or needs one; or its answers
            cannot be drawn, or no words look.
    """
    if not files:  # nothing that would be worth loading torch
        return []
    from florence.loading import load
    from florence.models.opening import read_card

    model_uri = resolved(model_uri, s3)
    task = model_task_named(read_card(model_uri, s3).task)
    check_inputs(task, given)
    if drawings is not None:
        drawings.begin(task)
    model = load(model_uri, device=device, s3=s3)
    draw = getattr(model.predictor, "attention", None)
    if attention is not None and draw is None:
        raise ConfigurationError(f"--show-attention is not for {task.name} models: no words look")
    names = {parameter.name for parameter in task.inputs.parameters}
    parameters = {name: value for name, value in {**offered, **given}.items() if name in names}
    columns = {name: value for name, value in given.items() if name not in names}
    every = rows_of(columns)
    medium = task.inputs.medium

    def answers_to(some: Sequence[str]) -> list[Answer]:
        contents = list(contents_for(medium, some, s3, refuse))
        asked = [(name, {medium: content, **own}) for name, content in contents for own in every]
        answers = model.predictor.predict([row for _, row in asked], parameters) if asked else []
        for (name, row), answer in zip(asked, answers, strict=True):
            if drawings is not None:
                drawings.add(name, row[medium], answer)
            if attention is not None and draw is not None:
                write_numbered(attention, Path(name).stem, draw(row, answer))
        return [(name, answer) for (name, _), answer in zip(asked, answers, strict=True)]

    fitting = [name for name in files if fits(name, task, refuse)]
    parts = in_parts(fitting, IMAGES_AT_ONCE if medium == "image" else 1)
    return [answer for part in parts for answer in answers_to(part)]


def write_numbered(folder: Path, stem: str, png: bytes) -> None:
    """Write a picture under the first free name: ``cat.png``, ``cat-2.png``, …

    Raises:
        ConfigurationError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = (folder / (f"{stem}-{i}.png" if i > 1 else f"{stem}.png") for i in count(1))
        next(path for path in names if not path.exists()).write_bytes(png)
    except OSError as error:
        raise ConfigurationError(
            f"--show-attention: {folder} cannot be written: {error.strerror}"
        ) from None


def rows_of(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of an image: one for each choice among lists of texts, else a single one."""
    lists = [value if isinstance(value, list) else [value] for value in columns.values()]
    return [dict(zip(columns, chosen, strict=True)) for chosen in product(*lists)]


def table_of(answers: Sequence[Answer], top: int) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: the best labels, the boxes or the timeline, else what each answer holds."""
    medium = noun(answers[0][0])
    if all("timeline" in answer for _, answer in answers):
        parts = [(name, part) for name, answer in answers for part in answer["timeline"]]
        return [medium, "start", "label", "probability"], [
            [name, f"{part['start']:g} s", part["label"], f"{part['probability']:.4f}"]
            for name, part in parts
        ]
    if all("probabilities" in answer for _, answer in answers):
        asked = ["question"] if any("question" in answer for _, answer in answers) else []
        rows = [
            [name, *(answer.get(column, "") for column in asked), label, f"{probability:.4f}"]
            for name, answer in answers
            for label, probability in list(answer["probabilities"].items())[:top]
        ]
        return [medium, *asked, "label", "probability"], rows
    if all("boxes" in answer for _, answer in answers):
        found = [(name, box) for name, answer in answers for box in answer["boxes"]]
        return ["image", "label", "score", "box"], [
            [name, box["label"], f"{box['score']:.4f}", " ".join(f"{v:.1f}" for v in box["box"])]
            for name, box in found
        ]
    columns = list(dict.fromkeys(column for _, answer in answers for column in answer))
    return [medium, *columns], [
        [name, *(answer.get(column, "") for column in columns)] for name, answer in answers
    ]


def rounded(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The answer with its fractions at six places, and without what its labels repeat."""
    repeated = {"probability"} if "probabilities" in answer else set()
    return {name: _short(value) for name, value in answer.items() if name not in repeated}


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {name: _short(inner) for name, inner in value.items()}
    return [_short(inner) for inner in value] if isinstance(value, (list, tuple)) else value

"""``florencectl predict``: what a trained model says about image files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from florence.errors import ConfigurationError
from florence.kinds import MODEL_TASKS, model_task_named
from florence.tasks.inputs import Column, Parameter
from florence.tasks.kind import ModelTask
from florencectl.flags import with_parameters
from florencectl.output import DocumentFormat, print_document, print_table

IMAGES_AT_ONCE = 64
"""Decoded at a time: many large images need the memory of a few."""


def _predict(
    model: Annotated[str, typer.Argument(help="Folder or s3:// URI of a model or of a stage.")],
    images: Annotated[list[Path], typer.Argument(help="JPEG, PNG or WebP files.")],
    top: Annotated[int, typer.Option(min=1, help="Labels shown of each image.")] = 3,
    output: Annotated[
        DocumentFormat, typer.Option("-o", "--output", help="table, json or yaml.")
    ] = DocumentFormat.TABLE,
    **given: Any,
) -> None:
    """Predict with a trained model; what it answers depends on what it was trained for.

    A two-tower model classifies images with words of your choice: each word is put into all
    templates, and the image goes to the word whose sentences are nearest. A model with a head
    classifies with the labels that it was trained with.
    """
    # What the user wrote is checked before what takes long.
    values = {
        name: parsed(input_named(name), text) for name, text in given.items() if text is not None
    }
    answers = answers_of(model, images, values, offered={"top": top})
    if output is DocumentFormat.TABLE:
        print_table(*table_of(images, answers, top))
        return
    document = [
        {"image": str(path), **rounded(answer)}
        for path, answer in zip(images, answers, strict=True)
    ]
    print_document(document, output)


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


def parsed(given: Column | Parameter, text: str) -> Any:
    """The value of an input from the command line.

    Raises:
        ConfigurationError: it is not of the input's type; names the flag.
    """
    flag = flag_of(given.name)
    if given.type == "templates":
        from florence.text.templates import load_templates

        return load_templates(text, flag)
    if given.type == "texts":
        return parse_labels(text, flag)
    if given.type in ("number", "integer"):
        try:
            return int(text) if given.type == "integer" else float(text)
        except ValueError:
            raise ConfigurationError(f"{flag}: '{text}' is not a number") from None
    return text


def parse_labels(labels: str, flag: str = "--labels") -> list[str]:
    """The words between commas, in their order.

    Raises:
        ConfigurationError: there is none, or one comes twice.
    """
    names = [name.strip() for name in labels.split(",") if name.strip()]
    if not names:
        raise ConfigurationError(f"{flag} names no word: write {flag} 'cat,dog'")
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"{flag} names '{name}' twice")
    return names


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
    images: Sequence[Path],
    given: Mapping[str, Any],
    *,
    offered: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The model's answer for every image; images are read and decoded some at a time.

    Args:
        given: by name: the task's parameters, and columns that are the same for every image.
        offered: parameters that are passed on to models whose task takes them.

    Raises:
        DataError: there is no model, or a file is missing or no image; names it.
        ConfigurationError: the model's task takes no such input, or needs one.
    """
    from florence.loading import content_of, load
    from florence.models.opening import read_card
    from florencectl.inference import decoded

    task = model_task_named(read_card(model_uri).task)
    check_inputs(task, given)
    model = load(model_uri)
    names = {parameter.name for parameter in task.inputs.parameters}
    parameters = {
        name: value for name, value in {**(offered or {}), **given}.items() if name in names
    }
    columns = {name: value for name, value in given.items() if name not in names}

    def answers_to(some: Sequence[Path]) -> list[dict[str, Any]]:
        rows = [{"image": decoded(path, content_of(path)), **columns} for path in some]
        return model.predictor.predict(rows, parameters)

    parts = (images[at : at + IMAGES_AT_ONCE] for at in range(0, len(images), IMAGES_AT_ONCE))
    return [answer for part in parts for answer in answers_to(part)]


def table_of(
    images: list[Path], answers: list[dict[str, Any]], top: int
) -> tuple[list[str], list[list[Any]]]:
    """Header and rows: the best labels where there are labels, else what each answer holds."""
    if all("probabilities" in answer for answer in answers):
        rows = [
            [path, name, f"{probability:.4f}"]
            for path, answer in zip(images, answers, strict=True)
            for name, probability in list(answer["probabilities"].items())[:top]
        ]
        return ["image", "label", "probability"], rows
    columns = list(dict.fromkeys(name for answer in answers for name in answer))
    return ["image", *columns], [
        [path, *(answer.get(name, "") for name in columns)]
        for path, answer in zip(images, answers, strict=True)
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

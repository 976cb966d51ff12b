"""``florencectl predict``: what a trained model says about image files."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from florence.errors import ConfigurationError
from florence.kinds import MODEL_TASKS
from florence.tasks.inputs import Parameter
from florencectl.flags import with_parameters
from florencectl.output import DocumentFormat, print_document, print_table


def _predict(
    model: Annotated[str, typer.Argument(help="Folder or s3:// URI of a model or of a stage.")],
    images: Annotated[list[Path], typer.Argument(help="JPEG, PNG or WebP files.")],
    top: Annotated[int, typer.Option(min=1, help="Labels shown of each image.")] = 3,
    output: Annotated[
        DocumentFormat, typer.Option("-o", "--output", help="table, json or yaml.")
    ] = DocumentFormat.TABLE,
    **parameters: Any,
) -> None:
    """Predict with a trained model; what it answers depends on what it was trained for.

    A two-tower model classifies images with words of your choice: each word is put into all
    templates, and the image goes to the word whose sentences are nearest. A model with a head
    classifies with the labels that it was trained with.
    """
    given = {name: value for name, value in parameters.items() if value is not None}
    # What the user wrote is checked before what takes long.
    values = {name: parsed(parameter_named(name), text) for name, text in given.items()}
    answers = answers_of(model, images, values)
    if output is DocumentFormat.TABLE:
        print_table(*table_of(images, answers, top))
        return
    document = [
        {"image": str(path), **rounded(answer)}
        for path, answer in zip(images, answers, strict=True)
    ]
    print_document(document, output)


def parameter_named(name: str) -> Parameter:
    """The first parameter of that name of any task; those of one name are of one type."""
    return next(
        parameter
        for task in MODEL_TASKS.values()
        for parameter in task.inputs.parameters
        if parameter.name == name
    )


def parameter_flags() -> list[inspect.Parameter]:
    """A flag for every parameter of any task's models, with the tasks that take it."""
    helps: dict[str, str] = {}
    takers: dict[str, list[str]] = {}
    for task in MODEL_TASKS.values():
        for parameter in task.inputs.parameters:
            helps.setdefault(parameter.name, parameter.help)
            takers.setdefault(parameter.name, []).append(task.name)
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Option(
                    f"--{name.replace('_', '-')}", help=f"{text} ({', '.join(takers[name])} models)"
                ),
            ],
        )
        for name, text in helps.items()
    ]


predict = with_parameters(_predict, parameter_flags(), name="predict")


def parsed(parameter: Parameter, text: str) -> Any:
    """The value of a parameter from the command line.

    Raises:
        ConfigurationError: it is not of the parameter's type; names the flag.
    """
    flag = f"--{parameter.name.replace('_', '-')}"
    if parameter.type == "templates":
        from florence.text.templates import load_templates

        return load_templates(text, flag)
    if parameter.type == "texts":
        return parse_labels(text, flag)
    if parameter.type in ("number", "integer"):
        try:
            return int(text) if parameter.type == "integer" else float(text)
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


def answers_of(
    model_uri: str, images: list[Path], parameters: dict[str, Any]
) -> list[dict[str, Any]]:
    """The model's answer for every image.

    Raises:
        DataError: a file is missing or no image; names it.
        ConfigurationError: the model's task takes no such parameter, or needs one.
    """
    from florence.loading import content_of, load
    from florencectl.inference import decoded

    model = load(model_uri)
    needed = model.card.task == "contrastive" and not parameters.get("labels")
    if needed:
        raise ConfigurationError(
            "--labels is needed: a two-tower model classifies with words of your choice: "
            "write --labels 'cat,dog' (for embeddings use florencectl embed)"
        )
    rows = [decoded(path, content_of(path)) for path in images]
    return model.predict(rows, **parameters)


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


def rounded(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer with its fractions at six places, and without what its labels repeat."""
    short = {key: value for key, value in answer.items() if key != "probability"}
    return {
        key: {name: round(number, 6) for name, number in value.items()}
        if key == "probabilities"
        else value
        for key, value in short.items()
    }

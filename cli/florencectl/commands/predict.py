"""``florencectl predict``: zero-shot classification of image files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from florence.errors import ConfigurationError
from florencectl.output import DocumentFormat, print_document, print_table


def predict(
    model: Annotated[str, typer.Argument(help="Folder or s3:// URI of a model or of a stage.")],
    images: Annotated[list[Path], typer.Argument(help="JPEG, PNG or WebP files.")],
    labels: Annotated[str, typer.Option(help="Words to choose from: 'cat,dog'.")],
    templates: Annotated[
        str | None,
        typer.Option(
            help="Sentences for the words: imagenet, digits, none, or a file with one per line; "
            "default: the model's own, or imagenet."
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Labels shown of each image.")] = 3,
    output: Annotated[
        DocumentFormat, typer.Option("-o", "--output", help="table, json or yaml.")
    ] = DocumentFormat.TABLE,
) -> None:
    """Classify images with words of your choice.

    Each word is put into all templates, and the image goes to the word whose sentences are nearest.
    """
    names = parse_labels(labels)
    ranked = classify(model, images, names, templates)
    if output is DocumentFormat.TABLE:
        print_table(
            ["image", "label", "probability"],
            [
                [path, name, f"{probability:.4f}"]
                for path, row in zip(images, ranked, strict=True)
                for name, probability in row[:top]
            ],
        )
        return
    document = [
        {
            "image": str(path),
            "label": row[0][0],
            "probabilities": {name: round(probability, 6) for name, probability in row},
        }
        for path, row in zip(images, ranked, strict=True)
    ]
    print_document(document, output)


def parse_labels(labels: str) -> list[str]:
    """The words between commas, in their order.

    Raises:
        ConfigurationError: there is none, or one comes twice.
    """
    names = [name.strip() for name in labels.split(",") if name.strip()]
    if not names:
        raise ConfigurationError("--labels names no word: write --labels 'cat,dog'")
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"--labels names '{name}' twice")
    return names


def classify(
    model_uri: str, images: list[Path], names: list[str], templates: str | None
) -> list[list[tuple[str, float]]]:
    """For each image the labels with their probabilities, most probable first."""
    from florence.evaluation.classify import class_embeddings
    from florence.evaluation.embed import embed_images
    from florence.text.templates import load_templates
    from florence.text.tokenizer import tokenize
    from florencectl.inference import image_batches, open_model

    # What the user wrote is checked before what takes long.
    sentences = load_templates(templates, "--templates") if templates else None
    model, card = open_model(model_uri)
    sentences = sentences or card.templates or load_templates("imagenet")
    classes = class_embeddings(model, tokenize, names, sentences)
    pictures = embed_images(model, image_batches(images, card))
    scale = model.logit_scale.detach().exp()
    rows = (scale * pictures @ classes.T).softmax(dim=1).tolist()
    return [
        sorted(zip(names, row, strict=True), key=lambda pair: pair[1], reverse=True) for row in rows
    ]

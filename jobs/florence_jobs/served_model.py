"""The final model as MLflow serves it: images in, labels or embeddings out.

MLflow calls :func:`_load_pyfunc` of this module, which comes from the installed package: the
model's folder holds ``model.safetensors`` and ``config.json``, no code and no pickle.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

import florence
from florence.data.images import BrokenImageError, decode
from florence.data.transforms import eval_transform
from florence.evaluation.classify import class_embeddings
from florence.evaluation.embed import embed_images
from florence.models.model_file import ModelCard, load_model
from florence.models.two_tower import TwoTower
from florence.text.templates import GAP
from florence.text.tokenizer import tokenize

if TYPE_CHECKING:
    import pandas as pd

BATCH = 64


class ServedModel:
    """Zero-shot classification and embedding of images that arrive as base64 text.

    An image is never a path or a URL: a server must not read its own files for whoever asks.
    """

    def __init__(self, model: TwoTower, card: ModelCard) -> None:
        self._model = model
        self._transform = eval_transform(card.resolution, card.mean, card.std)
        # One entry per set of labels that clients ask for, each C x D floats.
        self._classes = lru_cache(maxsize=32)(self._class_embeddings)

    def predict(
        self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Answer for every row of a table.

        Args:
            model_input: column ``image``: base64 of a JPEG, PNG or WebP, also as a data URI;
                optional column ``labels``: a list of texts per row, which wins over the parameter.
            params: ``labels``: class names for all rows; ``templates``: sentences with ``{}``,
                averaged over. Without labels the answer is the embedding.

        Returns:
            Per row ``{"label", "probability", "probabilities"}``, or ``{"embedding"}``.

        Raises:
            MlflowException: an image or a parameter is unusable; the message names the row.
        """
        params = params or {}
        templates = tuple(params.get("templates") or (GAP,))
        for template in templates:
            if GAP not in template:
                raise _refused(f"template '{template}' has no {GAP} where the label goes")
        common = list(params.get("labels") or ())
        rows = model_input.to_dict("records")
        embeddings = embed_images(self._model, self._batches(rows))
        return [
            self._answer(embedding, _labels(row.get("labels"), common, number), templates)
            for number, (row, embedding) in enumerate(zip(rows, embeddings, strict=True))
        ]

    def _batches(self, rows: Sequence[Mapping[Any, Any]]) -> Iterator[torch.Tensor]:
        """The rows' images, a batch at a time: one decoded image is held, and a batch of small."""
        images = (
            self._transform(_decode(row.get("image"), number)) for number, row in enumerate(rows)
        )
        while batch := list(islice(images, BATCH)):
            yield torch.stack(batch)

    def _answer(
        self, embedding: torch.Tensor, labels: Sequence[str], templates: tuple[str, ...]
    ) -> dict[str, Any]:
        if not labels:
            return {"embedding": embedding.tolist()}
        scale = self._model.logit_scale.detach().float().cpu().exp()
        logits = scale * (self._classes(tuple(labels), templates) @ embedding)
        probabilities = logits.softmax(dim=0)
        best = int(probabilities.argmax())
        return {
            "label": labels[best],
            "probability": float(probabilities[best]),
            "probabilities": dict(zip(labels, probabilities.tolist(), strict=True)),
        }

    def _class_embeddings(
        self, labels: tuple[str, ...], templates: tuple[str, ...]
    ) -> torch.Tensor:
        return class_embeddings(self._model, tokenize, labels, templates)


def _load_pyfunc(path: str) -> ServedModel:
    """MLflow's entry point: the model of a folder written by :func:`write_served_model`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, card = load_model(Path(path), device=device)
    return ServedModel(model.eval(), card)


def write_served_model(path: Path, weights: Path, description: Any) -> None:
    """Write the folder that MLflow serves.

    Args:
        path: the folder to make.
        weights: a folder with ``model.safetensors`` and ``config.json``, which are copied.
        description: an ``mlflow.models.Model``, whose ids the folder carries.
    """
    import mlflow.pyfunc

    mlflow.pyfunc.save_model(
        path=str(path),
        loader_module=__name__,
        data_path=str(weights),
        mlflow_model=description,
        signature=signature(),
        input_example=input_example(),
        pip_requirements=[f"florence[train]=={florence.__version__}"],
    )


def signature() -> Any:
    """MLflow's description of what :meth:`ServedModel.predict` takes."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    columns = [
        ColSpec(DataType.string, "image"),
        ColSpec(Array(DataType.string), "labels", required=False),
    ]
    params = [
        ParamSpec("labels", DataType.string, default=[], shape=(-1,)),
        ParamSpec("templates", DataType.string, default=[GAP], shape=(-1,)),
    ]
    return ModelSignature(inputs=Schema(columns), params=ParamSchema(params))


def input_example() -> tuple[Any, dict[str, list[str]]]:
    """One grey image and three labels to choose from."""
    import pandas as pd

    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (128, 128, 128)).save(buffer, format="PNG")
    image = base64.b64encode(buffer.getvalue()).decode()
    return pd.DataFrame({"image": [image]}), {"labels": ["cat", "dog", "grey"], "templates": [GAP]}


def _labels(value: Any, common: list[str], row: int) -> list[str]:
    """A row's own labels where it has some, else the request's."""
    labels = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else common
    if hasattr(value, "tolist"):
        labels = list(value.tolist())
    if len(set(labels)) < len(labels):
        raise _refused(f"row {row}: labels must differ from each other")
    return labels


def _decode(value: Any, row: int) -> Image.Image:
    if not isinstance(value, str):
        raise _refused(f"row {row}: image must be base64 text of a JPEG, PNG or WebP file")
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        content = base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise _refused(f"row {row}: image is not base64") from None
    try:
        return decode(content)
    except BrokenImageError as error:
        raise _refused(f"row {row}: {error}") from None


def _refused(message: str) -> Exception:
    """An error that MLflow's server answers with status 400."""
    from mlflow.exceptions import MlflowException

    error: Exception = MlflowException.invalid_parameter_value(message)
    return error

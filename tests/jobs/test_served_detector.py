"""A detector as MLflow serves it: an image in, boxes in pixels out."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
import pandas as pd  # noqa: E402
from mlflow.models import Model  # noqa: E402

import florence  # noqa: E402
from florence_jobs.served_model import write_served_model  # noqa: E402
from tests.small_detector import save  # noqa: E402
from tests.small_model import picture  # noqa: E402


def image() -> bytes:
    buffer = io.BytesIO()
    picture(3, (70, 50)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("texts", [False, True])
def test_it_answers_as_the_model_itself(tmp_path: Path, texts: bool) -> None:
    weights = save(tmp_path / "weights", texts=texts)
    write_served_model(tmp_path / "served", weights, Model())
    parameters = {"labels": ["cat", "dog"]} if texts else {}
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "served"))
    rows = pd.DataFrame({"image": [base64.b64encode(image()).decode()]})
    (answer,) = loaded.predict(rows, params={**parameters, "threshold": 0.2})
    (expected,) = florence.load(weights, device="cpu").predict(image(), threshold=0.2, **parameters)
    assert answer == expected
    assert answer["boxes"]
    x1, y1, x2, y2 = answer["boxes"][0]["box"]
    assert 0 <= x1 < x2 <= 70
    assert 0 <= y1 < y2 <= 50

"""Models of clips as MLflow serves them: base64 of an mp4 in, actions or embeddings out."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
import pandas as pd  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.models import Model  # noqa: E402

import florence  # noqa: E402
from florence_jobs.served_model import write_served_model  # noqa: E402
from tests.small_video import save, video  # noqa: E402


def rows(*contents: bytes) -> pd.DataFrame:
    return pd.DataFrame({"video": [base64.b64encode(each).decode() for each in contents]})


@pytest.mark.parametrize("texts", [False, True])
def test_it_answers_as_the_model_itself(tmp_path: Path, texts: bool) -> None:
    weights = save(tmp_path / "weights", texts=texts)
    write_served_model(tmp_path / "served", weights, Model())
    given = {"labels": ["cat", "dog"]} if texts else {"top": 2, "every": 1.0}
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "served"))
    answers = loaded.predict(rows(video(), video(seed=1)), params=given)
    model = florence.load(weights, device="cpu")
    assert answers == model.predict([video(), video(seed=1)], **given)
    if not texts:
        assert [part["start"] for part in answers[0]["timeline"]] == [0.0, 1.0]


def test_what_is_no_video_is_refused_with_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from florence.data.video.files import ClipLimits
    from florence.tasks.video import predict

    write_served_model(tmp_path / "served", save(tmp_path / "weights"), Model())
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "served"))
    with pytest.raises(MlflowException, match="row 1: video: broken video"):
        loaded.predict(rows(video(), b"no video"))
    with pytest.raises(MlflowException, match=r"row 0: every: 0.0001 s of 2 s are 20000"):
        loaded.predict(rows(video()), params={"every": 0.0001})
    monkeypatch.setattr(predict, "MOST_BYTES", 100)
    with pytest.raises(MlflowException, match="larger than the limit of 100"):
        loaded.predict(rows(video()))
    monkeypatch.undo()
    for limits, reason in (
        (ClipLimits(seconds=1), "longer than the limit of 1 seconds"),
        (ClipLimits(pixels=32 * 32), "48 x 32 pixels is larger than the limit"),
        (ClipLimits(frames=5), "more than 5 frames"),
    ):
        monkeypatch.setattr(predict, "LIMITS", limits)
        with pytest.raises(MlflowException, match=rf"row 0: video: .*{reason}"):
            loaded.predict(rows(video()))

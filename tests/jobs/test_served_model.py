"""The final model as MLflow serves it."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
import pandas as pd  # noqa: E402
from mlflow.models import ModelSignature  # noqa: E402

from florence.data import images  # noqa: E402
from florence.data.transforms import eval_transform  # noqa: E402
from florence.models.stored import StoredModel  # noqa: E402
from florence.tasks import predicting  # noqa: E402
from florence.tasks.inputs import Column, Inputs, Parameter  # noqa: E402
from florence.tasks.pretrain import CONTRASTIVE  # noqa: E402
from florence.tasks.pretrain.predict import ContrastivePredictor  # noqa: E402
from florence.text.tokenizer import tokenize  # noqa: E402
from florence_jobs import served_model  # noqa: E402
from florence_jobs.tracking.events import Spill  # noqa: E402
from florence_jobs.tracking.mlflow_run import MlflowRun, RunTarget  # noqa: E402
from florence_jobs.tracking.recorder import Tracker  # noqa: E402
from tests.gang import free_port  # noqa: E402
from tests.small_model import CARD, model_files, network  # noqa: E402


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


@pytest.fixture(scope="module")
def logged(model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The URI of a store and of the model that a tracker put there."""
    folder = tmp_path_factory.mktemp("served")
    store = f"sqlite:///{folder}/mlflow.db"
    run = MlflowRun(RunTarget(uri=store, experiment="e", job="j", stage="s", attempt=1, name="n"))
    tracker = Tracker(run, Spill(folder / "spill.jsonl"), attempt=1, where=store, interval_s=0.05)
    tracker.parameters({"stage": {"steps": 12}, "data": "x" * 600})
    tracker.metrics(6, {"loss": 2.0, "validation/top1": 0.5})
    tracker.checkpoint("s3://bucket/runs/j/s/data/step-6", 6, {})
    tracker.metrics(12, {"loss": 1.0})
    tracker.checkpoint("s3://bucket/runs/j/s/data/step-12", 12, {})
    tracker.model(model_files(), "s3://bucket/runs/j/s/model")
    tracker.close("FINISHED")
    client = mlflow.MlflowClient(tracking_uri=store)
    # One model a stage, however many commits: with how it was made and how good it is.
    (logged,) = client.search_logged_models([client.get_run(run.run_id).info.experiment_id])
    assert logged.name == "model"
    assert logged.params == {"stage.steps": "12", "data": "x" * 500}
    assert {m.key: (m.step, m.value) for m in logged.metrics} == {
        "loss": (12, 1.0),
        "validation/top1": (12, 0.5),
    }
    assert client.get_run(run.run_id).data.tags["florence.checkpointStep"] == "12"
    assert logged.status == "READY"
    assert logged.source_run_id == run.run_id
    assert logged.tags["florence.uri"] == "s3://bucket/runs/j/s/model"
    assert logged.tags["mlflow.note.content"] == (
        f"`florencectl serve models:/{logged.model_id}` answers over HTTP with this model; "
        "`florencectl predict s3://bucket/runs/j/s/model IMAGE…` says what it sees in images."
    )
    assert client.get_run(run.run_id).outputs.model_outputs[0].model_id == logged.model_id
    return store, logged.artifact_location


@pytest.fixture(scope="module")
def served(logged: tuple[str, str]) -> Any:
    return mlflow.pyfunc.load_model(logged[1])


def picture(seed: int, form: str = "PNG", size: tuple[int, int] = (40, 32)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format=form)
    return Image.open(io.BytesIO(buffer.getvalue()))


def encoded(image: Image.Image, form: str = "PNG") -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=form)
    return base64.b64encode(buffer.getvalue()).decode()


def expected(
    model: Any, images: list[Image.Image], labels: list[str], template: str
) -> torch.Tensor:
    transform = eval_transform(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with torch.no_grad():
        rows = model.encode_image(torch.stack([transform(i.convert("RGB")) for i in images]))
        texts = model.encode_text(tokenize([template.replace("{}", name) for name in labels]))
        return (model.logit_scale.exp() * rows @ texts.T).softmax(dim=1)


def test_labels_for_all_images(model: Any, served: Any) -> None:
    images = [picture(n) for n in range(3)]
    frame = pd.DataFrame({"image": [encoded(image) for image in images]})
    labels = ["cat", "dog", "a bird"]
    answers = served.predict(frame, params={"labels": labels, "templates": ["a photo of {}"]})
    wanted = expected(model, images, labels, "a photo of {}")
    for answer, row in zip(answers, wanted, strict=True):
        assert answer["label"] == labels[int(row.argmax())]
        assert answer["probability"] == pytest.approx(float(row.max()), abs=1e-4)
        assert [answer["probabilities"][name] for name in labels] == pytest.approx(
            row.tolist(), abs=1e-4
        )
        assert list(answer["probabilities"].values()) == sorted(
            answer["probabilities"].values(), reverse=True
        )


def test_labels_of_each_image_and_embeddings_without(model: Any, served: Any) -> None:
    images = [picture(1), picture(2)]
    texts = [encoded(image) for image in images]
    own = served.predict(
        pd.DataFrame({"image": texts, "labels": [["x", "y"], ["one", "two", "3"]]}),
        params={"templates": ["{}"]},
    )
    assert [set(answer["probabilities"]) for answer in own] == [{"x", "y"}, {"one", "two", "3"}]
    wanted = expected(model, [images[1]], ["one", "two", "3"], "{}")[0]
    assert [own[1]["probabilities"][name] for name in ("one", "two", "3")] == pytest.approx(
        wanted.tolist(), abs=1e-4
    )
    plain = served.predict(pd.DataFrame({"image": texts}))
    transform = eval_transform(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with torch.no_grad():
        rows = model.encode_image(torch.stack([transform(i.convert("RGB")) for i in images]))
    np.testing.assert_allclose([a["embedding"] for a in plain], rows.numpy(), atol=1e-5)


def described(inputs: Inputs) -> tuple[dict[str, Any], dict[str, Any]]:
    """The columns and parameters of a signature, by name, after its journey through JSON."""
    signature = ModelSignature.from_dict(served_model.signature(inputs).to_dict())
    columns = {c.name: (str(c.type), c.required) for c in signature.inputs.inputs}
    parameters = {p.name: (str(p.dtype), p.default, p.shape) for p in signature.params.params}
    return columns, parameters


def test_the_signature_of_a_two_tower_model(logged: tuple[str, str]) -> None:
    columns, parameters = described(CONTRASTIVE.inputs)
    assert columns == {
        "image": ("DataType.string", True),
        "labels": ("Array(string)", False),
    }
    assert parameters == {
        "labels": ("DataType.string", [], (-1,)),
        "templates": ("DataType.string", [], (-1,)),
    }
    stored = mlflow.models.Model.load(logged[1].removeprefix("file://")).signature
    assert stored == served_model.signature(CONTRASTIVE.inputs)


MADE_UP = Inputs(
    columns=(
        Column(name="image", type="image", help="a picture"),
        Column(name="question", type="text", help="about it"),
        Column(name="options", type="texts", help="answers to choose from", required=False),
    ),
    parameters=(
        Parameter(name="beams", type="integer", help="width of the search", default=3),
        Parameter(name="threshold", type="number", help="least certainty", default=0.5),
        Parameter(name="style", type="text", help="of the answer", default="short"),
        Parameter(name="names", type="texts", help="names to use", required=True),
        Parameter(name="sentences", type="templates", help="answers", default=("a {}",)),
    ),
)


def test_the_signature_of_any_task_follows_from_its_inputs() -> None:
    columns, parameters = described(MADE_UP)
    assert columns == {
        "image": ("DataType.string", True),
        "question": ("DataType.string", True),
        "options": ("Array(string)", False),
    }
    assert parameters == {
        "beams": ("DataType.long", 3, None),
        "threshold": ("DataType.double", 0.5, None),
        "style": ("DataType.string", "short", None),
        "names": ("DataType.string", [], (-1,)),
        "sentences": ("DataType.string", ["a {}"], (-1,)),
    }
    frame, given = served_model.input_example(MADE_UP)
    assert list(frame.columns) == ["image", "question"]
    assert set(given) == set(parameters)
    assert given["names"]


def test_any_predictor_is_served_images_as_bytes() -> None:
    seen: list[Any] = []

    class Echo:
        inputs = MADE_UP

        def predict(self, rows: Any, parameters: Any) -> list[dict[str, Any]]:
            seen.append((rows, parameters))
            return [{"answer": row["question"]} for row in rows]

    frame = pd.DataFrame({"image": [base64.b64encode(b"file").decode()], "question": ["why?"]})
    served = served_model.ServedModel(Echo())  # type: ignore[arg-type]
    assert served.predict(frame, {"beams": 2}) == [{"answer": "why?"}]
    assert seen == [([{"image": b"file", "question": "why?"}], {"beams": 2})]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_formats_and_data_uris(served: Any, form: str) -> None:
    text = encoded(picture(3), form)
    as_uri = f"data:image/{form.lower()};base64,{text}"
    plain, uri = served.predict(pd.DataFrame({"image": [text, as_uri]}))
    assert plain == uri


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("/etc/hostname", "row 0: image is not"),
        ("file:///etc/hostname", "row 0: image is not base64"),
        ("http://localhost/x.png", "row 0: image is not base64"),
        (
            base64.b64encode(b"no image").decode(),
            "row 0: image: broken image: not a JPEG, PNG or WebP",
        ),
        (encoded(picture(1))[:400], "row 0: image: broken image"),
        ("", "row 0: image: broken image: the file is empty"),
    ],
)
def test_nothing_but_whole_images_is_taken(served: Any, image: str, message: str) -> None:
    with pytest.raises(mlflow.exceptions.MlflowException, match=message):
        served.predict(pd.DataFrame({"image": [image]}))


def test_huge_images_and_wrong_labels_are_refused(served: Any) -> None:
    huge = encoded(Image.new("1", (9000, 9000)))
    with pytest.raises(mlflow.exceptions.MlflowException, match="9000 x 9000 pixels is larger"):
        served.predict(pd.DataFrame({"image": [huge]}))
    frame = pd.DataFrame({"image": [encoded(picture(1))]})
    with pytest.raises(mlflow.exceptions.MlflowException, match="texts must differ"):
        served.predict(frame, params={"labels": ["a", "a"]})
    with pytest.raises(mlflow.exceptions.MlflowException, match=r"has no \{\}"):
        served.predict(frame, params={"labels": ["a"], "templates": ["a photo"]})


def test_images_are_decoded_a_batch_at_a_time(model: Any, monkeypatch: Any) -> None:
    held: list[weakref.ref[Image.Image]] = []
    most = 0

    def decode_and_count(data: bytes) -> Image.Image:
        nonlocal most
        image = images.decode(data)
        held.append(weakref.ref(image))
        most = max(most, sum(ref() is not None for ref in held))
        return image

    monkeypatch.setattr(predicting, "decode", decode_and_count)
    frame = pd.DataFrame({"image": [encoded(picture(n)) for n in range(8)]})
    stored = StoredModel("test", CARD, model.state_dict())
    predictor = ContrastivePredictor(stored, torch.device("cpu"))
    answers = served_model.ServedModel(predictor).predict(frame)
    assert len(answers) == len(held) == 8
    assert most <= 2


def test_sixteen_bits_are_scaled_as_in_training(model: Any, served: Any) -> None:
    values = (np.arange(40 * 32).reshape(32, 40) * 51).astype(np.uint16)
    deep = served.predict(pd.DataFrame({"image": [encoded(Image.fromarray(values))]}))
    eight = Image.fromarray((values >> 8).astype(np.uint8))
    plain = served.predict(pd.DataFrame({"image": [encoded(eight)]}))
    np.testing.assert_allclose(deep[0]["embedding"], plain[0]["embedding"], atol=1e-6)


def test_the_folder_holds_no_code_and_no_pickle(logged: tuple[str, str]) -> None:
    folder = Path(logged[1].removeprefix("file://"))
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {
        "data/files/model.safetensors",
        "data/files/config.json",
        "MLmodel",
        "input_example.json",
    } <= names
    assert not [n for n in names if n.endswith((".pkl", ".py", ".pt", ".bin"))]
    description = mlflow.models.Model.load(str(folder))
    assert description.flavors["python_function"]["loader_module"] == "florence_jobs.served_model"
    example = json.loads((folder / "serving_input_example.json").read_text())
    assert example["params"]["labels"] == ["cat", "dog", "grey"]


@pytest.fixture
def server(logged: tuple[str, str], tmp_path: Path) -> Iterator[str]:
    port = free_port()
    command = ["models", "serve", "-m", logged[1], "--env-manager", "local", "-p", str(port)]
    # One worker and a session of its own, so that all of it can be ended.
    # MLflow finds uvicorn by name, as it does in an activated environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    variables = {"MLFLOW_TRACKING_URI": logged[0], "MLFLOW_DISABLE_TELEMETRY": "true", "PATH": path}
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, "-h", "127.0.0.1", "--workers", "1"],
            env=os.environ | variables,
            stdout=log, stderr=log, start_new_session=True, cwd=tmp_path,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        while not _answers(f"{url}/ping"):
            assert process.poll() is None, (tmp_path / "serve.log").read_text()
            time.sleep(0.2)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def _ask(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{url}/invocations",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_mlflow_models_serve_answers_over_http(model: Any, server: str) -> None:
    image = picture(5)
    body = {
        "dataframe_records": [{"image": encoded(image)}],
        "params": {"labels": ["cat", "dog"], "templates": ["a {}"]},
    }
    (answer,) = _ask(server, body)["predictions"]
    wanted = expected(model, [image], ["cat", "dog"], "a {}")[0]
    assert [answer["probabilities"][name] for name in ("cat", "dog")] == pytest.approx(
        wanted.tolist(), abs=1e-4
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        _ask(server, {"dataframe_records": [{"image": "/etc/hostname"}]})
    assert refused.value.code == 400
    assert "row 0" in json.load(refused.value)["message"]

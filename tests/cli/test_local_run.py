"""What a run on this machine tells at its end."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from florence.checkpoint import write_final_model
from florence.kinds import MODEL_TASKS
from florence.storage import open_storage
from florence.tasks.inputs import Column, Inputs, Parameter
from florence_jobs.local.outcome import Example, example_of
from florence_jobs.local.plans import stage_uri
from florence_jobs.recipes.digits import digits
from florence_operator.api.v1alpha1 import Artifacts
from florencectl.local_run import command_to_use
from florencectl.main import app
from florencectl.run_display import shown
from tests.small_model import model_files

EXAMPLE = Example("/runs/a b/example.png", ("zero", "a one"), "digits")


def test_a_two_tower_model_is_used_with_words() -> None:
    inputs = MODEL_TASKS["contrastive"].inputs
    assert shlex.split(command_to_use("/runs/m", inputs, None))[1:] == [
        *("predict", "/runs/m", "IMAGE…", "--labels", "cat,dog"),
    ]
    assert shlex.split(command_to_use("/runs/m", inputs, EXAMPLE))[1:] == [
        *("predict", "/runs/m", "/runs/a b/example.png"),
        *("--labels", "zero,a one", "--templates", "digits"),
    ]
    plain = Example("e.png", ("a",), None)
    assert "--templates" not in command_to_use("m", inputs, plain)


def test_a_model_with_a_head_is_used_without_words() -> None:
    image = Column(name="image", type="image", help="a picture")
    top = Parameter(name="top", type="integer", help="how many", default=5)
    for example, picture in ((None, "IMAGE…"), (EXAMPLE, "/runs/a b/example.png")):
        inputs = Inputs(columns=(image,), parameters=(top,))
        words = shlex.split(command_to_use("m", inputs, example))
        assert words[1:] == ["predict", "m", picture]


def test_what_a_task_needs_is_named() -> None:
    image = Column(name="image", type="image", help="a picture")
    question = Column(name="the_question", type="text", help="about the picture")
    inputs = Inputs(columns=(image, question))
    assert command_to_use("m", inputs, None).endswith("predict m IMAGE… --the-question TEXT")


def test_words_with_commas_and_models_in_s3() -> None:
    inputs = MODEL_TASKS["contrastive"].inputs
    example = Example("s3://b/e.png", ("dog, grey", "cat"), None)
    words = shlex.split(command_to_use("s3://b/m", inputs, example, "http://minio:9000"))
    assert words[1:] == [
        *("predict", "s3://b/m", "s3://b/e.png", "--labels", '"dog, grey",cat'),
        *("--endpoint", "http://minio:9000"),
    ]
    assert "--endpoint" not in command_to_use("/runs/m", inputs, EXAMPLE, "http://minio:9000")


@pytest.mark.parametrize("place", ["folder", "s3"])
def test_the_command_that_is_printed_runs_as_it_stands(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an evaluation with prompts of one's own, also on another service than the default."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    storage = request.getfixturevalue(f"{place}_storage")
    endpoint = request.getfixturevalue("s3_settings").endpoint if place == "s3" else None
    Path("prompts.yaml").write_text('classes: ["dog, grey", cat]\ntemplates: ["a {}"]\n')
    job = digits()
    artifacts = Artifacts(uri=storage.uri, endpoint=endpoint)
    job = job.model_copy(update={"spec": job.spec.model_copy(update={"artifacts": artifacts})})
    last = job.spec.in_order()[-1].name
    stage = open_storage(stage_uri(job, last, ""), artifacts.s3)
    write_final_model(stage, model_files(), attempt=1)
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, format="PNG")
    stage.write("example.png", png.getvalue())
    example = {"image": "example.png", "labels": ["dog, grey", "cat"], "prompts": "prompts.yaml"}
    stage.write("metrics.json", json.dumps({"metrics": {}, "example": example}).encode())
    inputs = MODEL_TASKS["contrastive"].inputs
    command = command_to_use(
        f"{stage.uri}/model", inputs, example_of(job, ""), job.spec.artifacts.endpoint
    )
    result = CliRunner().invoke(app, [*shlex.split(command)[1:], "-o", "json"])
    assert result.exit_code == 0, result.output
    (answer,) = json.loads(result.stdout)
    assert set(answer["probabilities"]) == {"dog, grey", "cat"}


@pytest.mark.parametrize(
    ("result", "value", "text"),
    [
        ("digits/top1", 0.98244, "98.24 %"),
        ("voc2007/mAP11", 0.5, "50.00 %"),
        ("eurosat/5-shot/accuracy", 0.9, "90.00 %"),
        ("coco/imageToText/R@1", 0.25, "25.00 %"),
        ("steps", 600.0, "600"),
        ("logitScale", 14.28571, "14.29"),
    ],
)
def test_fractions_are_shown_in_percent(result: str, value: float, text: str) -> None:
    assert shown(result, value) == text

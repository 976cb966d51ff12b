"""What a run on this machine tells at its end."""

from __future__ import annotations

import shlex

import pytest

from florence.kinds import MODEL_TASKS
from florence.tasks.inputs import Column, Inputs, Parameter
from florence_jobs.local.outcome import Example
from florencectl.local_run import command_to_use
from florencectl.run_display import shown

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

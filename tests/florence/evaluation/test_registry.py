"""The registry of evaluations is the one place that lists them."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import textwrap

import pytest
from pydantic import ValidationError

from florence.config import Evaluate, EvaluationSettings
from florence.config.base import locations
from florence.evaluation.registry import EVALUATIONS, Evaluation


@pytest.mark.parametrize("kind", EVALUATIONS, ids=lambda kind: kind.field)
def test_every_path_leads_somewhere(kind: Evaluation) -> None:
    assert issubclass(pkgutil.resolve_name(kind.settings), EvaluationSettings)
    assert callable(pkgutil.resolve_name(kind.prepare))
    field = Evaluate.model_fields[kind.field]
    assert field.description == kind.help
    assert field.annotation == tuple[pkgutil.resolve_name(kind.settings), ...]


def test_settings_are_read_in_both_spellings_and_named_in_messages() -> None:
    task = {"name": "z", "data": "d", "prompts": "food101"}
    head = {"name": "c", "data": "d"}
    both = [
        Evaluate.model_validate({"zeroShot": [task], "classification": [head]}),
        Evaluate.model_validate({"zero_shot": [task], "classification": [head]}),
    ]
    assert both[0] == both[1]
    assert [(kind.field, one.name) for kind, one in both[0].chosen()] == [
        ("zero_shot", "z"),
        ("classification", "c"),
    ]
    assert list(both[0].wire()) == [
        "zeroShot",
        "classification",
        "batchSize",
        "precision",
        "workers",
    ]
    with pytest.raises(ValidationError, match="at least one of zeroShot, retrieval, class"):
        Evaluate()
    with pytest.raises(ValidationError, match="must differ"):
        Evaluate.model_validate({"zeroShot": [task], "retrieval": [{"name": "z", "data": "x"}]})


def test_sources_are_every_uri_and_no_name_of_a_built_in_thing() -> None:
    settings = Evaluate.model_validate(
        {
            "zeroShot": [
                {"name": "a", "data": "s3://a", "prompts": "imagenet"},
                {
                    "name": "b",
                    "data": "s3://b",
                    "prompts": "/p.yaml",
                    "baseline": "svm-rbf",
                    "baselineData": "s3://c",
                },
            ],
            "retrieval": [{"name": "c", "data": "s3://d", "images": "s3://e"}],
            "classification": [{"name": "d", "data": "s3://f", "labels": "/l.yaml"}],
        }
    )
    assert list(locations(settings)) == [
        ("zeroShot[0].data", "s3://a"),
        ("zeroShot[1].data", "s3://b"),
        ("zeroShot[1].prompts", "/p.yaml"),
        ("zeroShot[1].baselineData", "s3://c"),
        ("retrieval[0].data", "s3://d"),
        ("retrieval[0].images", "s3://e"),
        ("classification[0].data", "s3://f"),
        ("classification[0].labels", "/l.yaml"),
    ]


def test_a_line_in_the_registry_is_all_that_a_new_evaluation_needs() -> None:
    """In a process of its own: settings, field, messages and the runner follow from the line."""
    program = textwrap.dedent(
        """
        import sys
        from florence.evaluation import registry

        registry.EVALUATIONS += (
            registry.Evaluation(
                field="count_pixels",
                help="counts pixels",
                settings="florence.config.evaluations:EvaluationSettings",
                tasks=("contrastive",),
                prepare="made_up:prepare",
            ),
        )
        from florence.config import Evaluate
        from florence.config.base import locations

        assert "torch" not in sys.modules
        settings = Evaluate.model_validate({"countPixels": [{"name": "p", "data": "d"}]})
        assert list(locations(settings)) == [("countPixels[0].data", "d")]

        import types

        import torch

        from florence.distributed.world import World
        from florence.evaluation.context import Prepared, Results
        from florence.evaluation.models import ModelCard
        from florence.evaluation.runner import evaluate_model
        from florence.config import architecture_of

        made = types.ModuleType("made_up")
        made.prepare = lambda context, one: Prepared(3, lambda: Results({"pixels": 0.5}))
        sys.modules["made_up"] = made
        card = ModelCard(
            task="contrastive",
            architecture=architecture_of("coswin-nano"),
            window=4, resolution=32, mean=(0, 0, 0), std=(1, 1, 1),
        )
        report = evaluate_model(torch.nn.Linear(1, 1), card, settings, world=World())
        print(report.metrics, report.tables["results"])
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "{'p/pixels': 0.5}" in done.stdout

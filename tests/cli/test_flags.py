from __future__ import annotations

from enum import StrEnum
from typing import get_args

import pytest
import typer
from typer.testing import CliRunner

from florence.config import Settings
from florence.config.base import setting
from florence.errors import ConfigurationError
from florence.tasks.pretrain.settings import Pretrain
from florencectl.flags import assign, flags_of, merged, with_flags


def test_every_plain_field_of_pretrain_has_a_flag_and_groups_have_none() -> None:
    names = {parameter.name for parameter in flags_of(Pretrain)}
    groups = {
        name
        for name, field in Pretrain.model_fields.items()
        if any(
            isinstance(kind, type) and issubclass(kind, Settings)
            for kind in (field.annotation, *get_args(field.annotation))
        )
    }
    assert names == set(Pretrain.model_fields) - groups
    assert {"optimizer", "loss", "text", "evaluation"} <= groups


class Colour(StrEnum):
    RED = "red"


class Small(Settings):
    count: int = setting(description="how many", unit="samples", ge=1)
    colour: Colour = setting(Colour.RED, description="which")
    fast: bool = setting(False, description="quick")
    side: int | None = setting(None, description="side")


def run(arguments: list[str]) -> tuple[int, dict[str, object]]:
    seen: dict[str, object] = {}

    def command(name: str = "x", **fields: object) -> None:
        """Do it."""
        seen.update(fields, name=name)

    app = typer.Typer()
    app.command()(with_flags(command, Small, name="do", summary="Do it."))
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, seen


def test_flags_carry_only_what_was_typed() -> None:
    code, seen = run(["--count", "3", "--fast"])
    assert code == 0
    assert seen == {"count": 3, "fast": True, "colour": None, "side": None, "name": "x"}


def test_help_of_a_flag_tells_unit_and_default() -> None:
    app = typer.Typer(rich_markup_mode=None)

    def command(**fields: object) -> None:
        """Do it."""

    app.command()(with_flags(command, Small, name="do", summary="Do it."))
    text = " ".join(CliRunner().invoke(app, ["--help"]).stdout.split())
    assert "how many [samples] (required)" in text
    assert "which (default: red)" in text


def test_assignments_nest_and_keep_their_types() -> None:
    assert assign(["optimizer.lr=3e-4", "compile=true", "a.b.c=[1, 2]", "a.b.d=x"]) == {
        "optimizer": {"lr": "3e-4"},
        "compile": True,
        "a": {"b": {"c": [1, 2], "d": "x"}},
    }


def test_an_assigned_number_reaches_the_settings_as_a_number() -> None:
    fields = {"data": "d", "batchSize": 2, "steps": 5, **assign(["optimizer.lr=3e-4"])}
    assert Pretrain.model_validate(fields).optimizer.lr == 3e-4


@pytest.mark.parametrize("wrong", ["optimizer.lr", "=3", "a..b=1", "a=[1"])
def test_a_wrong_assignment_is_named(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="--set"):
        assign([wrong])


def test_a_field_of_a_value_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'a' was set to a value"):
        assign(["a=1", "a.b=2"])


def test_merging_keeps_what_the_second_does_not_name() -> None:
    first = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(first, {"a": {"b": 9}, "e": 4}) == {"a": {"b": 9, "c": 2}, "d": 3, "e": 4}
    assert first == {"a": {"b": 1, "c": 2}, "d": 3}

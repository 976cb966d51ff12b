"""Every command line that the pages show is one that the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from florence.data.flod.settings import FLOD
from florence.data.importing.registry import FORMATS
from florencectl.examples import EXAMPLES
from florencectl.main import COMMANDS, app, is_usage_error, load_command, spelt_out
from tests.test_docs import messages

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(
    r"(?m)^ +(?:[\w ]+: +)?((?:[^\n#]*\| )?(?:\.venv/bin/)?florencectl (?:[^\n]*\\\n)*[^\n]*)$"
)
SHORTENED = "…"
IMPORTS = {
    f"data import {name}": f"data import {name} {kind.example}"
    for name, kind in {**FORMATS, FLOD.name: FLOD}.items()
}


def pages() -> list[Path]:
    """README and docs, but for the page whose picture has boxes that look like commands."""
    every = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [page for page in every if page.name != "architecture.md"]


def shown_in(page: Path) -> list[str]:
    """Every command in an indented block of a page as printed, in one line without comments."""
    return [
        line.replace("\\\n", " ").partition(" # ")[0].strip()
        for line in COMMAND.findall(page.read_text(encoding="utf-8"))
    ]


def command_lines() -> list[str]:
    """The arguments of every command of the pages."""
    every = {line for page in pages() for line in shown_in(page)}
    return sorted({line.partition("florencectl ")[2] for line in every})


def parse(line: str) -> None:
    """Parse a command line down to its last sub-command; a wrong one raises ``ValueError``."""
    arguments = spelt_out(shlex.split(line))
    name, rest = arguments[0], arguments[1:]
    command: Any = load_command(name)
    while hasattr(command, "commands"):
        words = [word for word in rest if word in command.commands]
        if not words or rest[0] != words[0]:
            break
        name, rest = rest[0], rest[1:]
        command = command.commands[name]
    if SHORTENED in line:
        known = {option for given in command.params for option in given.opts + given.secondary_opts}
        unknown = [
            word for word in rest if word.startswith("-") and word.split("=")[0] not in known
        ]
        if unknown:
            raise ValueError(f"{name} has no {' '.join(unknown)}")
        return
    try:
        command.make_context(name, rest)
    except Exception as error:
        if not is_usage_error(error):
            raise
        raise ValueError(str(error)) from None


@pytest.mark.parametrize("line", command_lines())
def test_a_shown_command_is_one_that_the_program_takes(line: str) -> None:
    parse(line)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("submit pretrain --batchsize 3 …", "batchsize"),
        ("get --locally", "locally"),
        ("plan --gpus many", "integer"),
        ("data curate shards/web", "out"),
        ("predict MODEL", "images"),
    ],
)
def test_wrong_commands_are_found(wrong: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse(wrong)


def commands_of(command: Any, path: str) -> list[str]:
    """The command and all below it that can be run."""
    below = getattr(command, "commands", {})
    found = [name for inner in below for name in commands_of(below[inner], f"{path} {inner}")]
    return found if below and not command.invoke_without_command else [path, *found]


def test_every_command_has_examples_in_its_help() -> None:
    every = [path for name in COMMANDS for path in commands_of(load_command(name), name)]
    assert sorted([*EXAMPLES, *IMPORTS]) == sorted(every)
    for path, lines in EXAMPLES.items():
        assert all(line.startswith(path) for line in lines)
    for path in ("plan", "data import csv"):
        shown = CliRunner().invoke(app, [*path.split(), "--help"]).output
        assert f"  Examples:\n    florencectl {path} " in shown


@pytest.mark.parametrize(
    "line", [*(line for lines in EXAMPLES.values() for line in lines), *IMPORTS.values()]
)
def test_an_example_is_one_that_the_program_takes(line: str) -> None:
    parse(line)


def test_the_readme_shows_the_commands_of_a_first_day() -> None:
    shown = {line.split()[0] for line in command_lines()}
    assert {"submit", "get", "logs", "predict", "data", "model", "plan", "ui"} <= shown
    assert shown <= set(COMMANDS)


PRINTED = re.compile(r"'(?:florencectl|\{program\}) ([^'\n]+)'")


def printed() -> list[str]:
    """Commands between quotes in what the code says; … and {…} are filled in when it does."""
    found = {line for text in messages() for line in PRINTED.findall(text)}
    return sorted(re.sub(r"\{\w+\}", SHORTENED, line) for line in found)


@pytest.mark.parametrize("line", printed())
def test_a_command_in_a_message_is_one_that_the_program_takes(line: str) -> None:
    verb = line.split()[0]
    if verb != SHORTENED:
        assert verb in COMMANDS
        parse(f"{line} {SHORTENED}")


def test_messages_name_commands() -> None:
    assert len(printed()) > 10

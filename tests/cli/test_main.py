"""Start-up, failures as exit codes, and closed pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from florence.errors import ConfigurationError, DataError, TransientError
from florence.tasks.pretrain.settings import Pretrain
from florencectl import main as program

SAMPLE = Path(__file__).parents[2] / "jobs" / "samples" / "digits.yaml"
RUNNER = CliRunner()


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make ``florencectl version`` raise."""

    def install(error: BaseException) -> None:
        def version() -> None:
            raise error

        monkeypatch.setitem(sys.modules, "failing", SimpleNamespace(version=version))
        monkeypatch.setitem(program.COMMANDS, "version", ("failing", "Fail."))

    return install


def run_program(*arguments: str, **changes: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "florencectl.main", *arguments]
    return subprocess.run(command, text=True, capture_output=True, timeout=120, **changes)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("arguments", [["--help"], ["version"], ["plan", "-o", "json"], []])
def test_start_up_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        f"sys.argv = ['florencectl', *{arguments}]\n"
        "from florencectl.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print('code', end.code)\n"
        "heavy = {'torch', 'mlflow', 'rich', 'boto3', 'numpy', 'yaml'} & set(sys.modules)\n"
        "print('heavy', sorted(heavy))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], text=True, capture_output=True, timeout=120
    )
    assert "heavy []" in result.stdout, result.stderr


def test_help_lists_every_command_with_its_summary() -> None:
    result = RUNNER.invoke(program.app, ["--help"])
    assert result.exit_code == 0
    for name, (_, summary) in program.COMMANDS.items():
        assert f"  {name} " in result.stdout
        assert summary.split()[0] in result.stdout


@pytest.mark.parametrize("name", program.COMMANDS)
def test_every_command_has_help_of_its_own(name: str) -> None:
    result = RUNNER.invoke(program.app, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"florencectl {name}" in result.stdout or f" {name} " in result.stdout


@pytest.mark.parametrize(
    ("error", "code"), [(ConfigurationError, 2), (DataError, 3), (TransientError, 75)]
)
def test_a_failure_is_one_line_and_its_exit_code(
    failing: Callable[[BaseException], None], error: type[Exception], code: int
) -> None:
    failing(error("s3://a/b: no such bucket: check the URI"))
    result = RUNNER.invoke(program.app, ["version"])
    assert result.exit_code == code
    assert result.stderr == "florencectl: s3://a/b: no such bucket: check the URI\n"
    assert result.stdout == ""


def test_an_unknown_failure_is_one_line_and_a_traceback_on_request(
    failing: Callable[[BaseException], None],
) -> None:
    failing(RuntimeError("broken\nin two lines"))
    result = RUNNER.invoke(program.app, ["version"])
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "florencectl: RuntimeError: broken (run 'florencectl --debug …' for the traceback)"
    ]
    result = RUNNER.invoke(program.app, ["--debug", "version"])
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr


def test_an_interrupt_is_130(failing: Callable[[BaseException], None]) -> None:
    failing(KeyboardInterrupt())
    assert RUNNER.invoke(program.app, ["version"]).exit_code == 130


def test_a_missing_package_names_its_extra(failing: Callable[[BaseException], None]) -> None:
    failing(ModuleNotFoundError("No module named 'torch'", name="torch.nn"))
    result = RUNNER.invoke(program.app, ["version"])
    assert result.exit_code == 1
    assert "pip install 'florence[train]'" in result.stderr


def test_wrong_settings_are_lines_with_field_paths(
    failing: Callable[[BaseException], None],
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  pydantic's own
        Pretrain.model_validate({"batch_size": 0, "stps": 1})
    failing(caught.value)
    result = RUNNER.invoke(program.app, ["version"])
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "florencectl: data: is required",
        "florencectl: batchSize: must be at least 1, not 0",
        "florencectl: stps: is not a known field; did you mean 'steps'?",
    ]


def test_wrong_usage_is_2_and_suggests() -> None:
    result = RUNNER.invoke(program.app, ["pln"])
    assert result.exit_code == 2
    assert "Did you mean 'plan'?" in result.stderr
    assert RUNNER.invoke(program.app, ["plan", "--steps", "many"]).exit_code == 2


def test_a_closed_pipe_is_success() -> None:
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-m", "florencectl.main", "plan", "-o", "json"],
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=120,
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_output_that_cannot_be_written_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "florencectl.main", "plan", "-o", "json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert result.returncode == 1
    assert result.stderr == "florencectl: input or output: No space left on device\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_of_a_shell(shell: str) -> None:
    result = RUNNER.invoke(program.app, ["completion", shell])
    assert result.exit_code == 0
    assert "_FLORENCECTL_COMPLETE" in result.stdout


def test_completion_offers_commands_and_their_options() -> None:
    def completed(words: str, index: int) -> list[str]:
        environment = os.environ | {
            "_FLORENCECTL_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(index),
        }
        return run_program(env=environment).stdout.split()

    assert completed("florencectl pl", 1) == ["plan"]
    assert completed("florencectl plan --gp", 2) == ["--gpus", "--gpu"]
    assert completed("florencectl plan --preset coswin-n", 3) == ["coswin-nano"]
    words = f"florencectl submit -f {SAMPLE} --set"
    assert completed(f"{words} m", 5) == ["model.", "mixed."]
    assert completed(f"{words} mixed.optimizer.warm", 5) == ["mixed.optimizer.warmupSteps="]
    words = "florencectl submit pretrain --set"
    assert completed(f"{words} opt", 4) == ["optimizer."]
    assert completed(f"{words} model.image.att", 4) == ["model.image.attention="]

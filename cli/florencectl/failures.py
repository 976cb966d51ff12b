"""How a failure is told: a line on stderr with what, where and what to do, and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import TYPE_CHECKING

import typer

from florence.errors import ConfigurationError, DataError, FlorenceError, MissingExtraError
from florencectl.program import program_name

if TYPE_CHECKING:
    from pydantic import BaseModel

INTERRUPTED = 130

_API_ERRORS = "florence_operator.kube.errors"  # named, not imported: it brings an HTTP client

_EXTRA_OF = {
    "torch": "train",
    "numpy": "train",
    "safetensors": "train",
    "PIL": "train",
    "instant_clip_tokenizer": "train",
    "ftfy": "train",
    "boto3": "cluster",
    "sklearn": "train",
    "matplotlib": "train",
    "mlflow": "train",
    "psutil": "train",
    "pyarrow": "train",
    "deepspeed": "deepspeed",
    "kubernetes_asyncio": "cluster",
    "aiohttp": "cluster",
    "minio": "storage",
    "onnx": "export",
    "onnxscript": "export",
    "kfp": "pipelines",
    "kfp_server_api": "pipelines",
    "kubernetes": "pipelines",
}

# Where the models are whose documents users write, by the title pydantic gives their errors.
_MODEL_MODULES = {
    "FlorenceJob": "florence_operator.api",
    "S3Settings": "florence.config.storage",
    "ModelConfig": "florence.config",
}


def report(error: BaseException, *, debug: bool) -> int:
    """Print the failure on stderr, with its traceback when ``debug``, and return the exit code."""
    if debug:
        traceback.print_exception(error)
    lines, code = describe(error)
    if isinstance(error, OSError):
        silence_stdout()  # it may be what could not be written
    for line in lines:
        say(line)
    return code


def say(line: str) -> None:
    """Print a failure on stderr, with the program's name before it."""
    print(f"{program_name()}: {line}", file=sys.stderr, flush=True)


class BadFiles:
    """Tells of files that cannot be used, one by one; the others are worked on."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, problem: str) -> None:
        """Tell what is wrong with a file."""
        self._count += 1
        say(problem)

    def __bool__(self) -> bool:
        """Whether there were any."""
        return self._count > 0

    def exit(self) -> None:
        """End the command with the exit code of unusable data if there were any."""
        if self:
            raise typer.Exit(DataError.exit_code)


def describe(error: BaseException) -> tuple[list[str], int]:
    """The lines that tell the failure, and its exit code."""
    if isinstance(error, KeyboardInterrupt):
        return ["interrupted"], INTERRUPTED
    if isinstance(error, FlorenceError):
        return str(error).splitlines(), error.exit_code
    if type(error).__module__ == _API_ERRORS and type(error).__name__ == "ApiError":
        from florencectl.cluster.errors import told

        return told(error)
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package in _EXTRA_OF:
            missing = MissingExtraError(package, _EXTRA_OF[package])
            return [str(missing)], missing.exit_code
    if isinstance(error, OSError) and error.strerror:
        where = error.filename or "input or output"
        return [f"{where}: {error.strerror}"], FlorenceError.exit_code
    if type(error).__module__.startswith("pydantic"):
        from pydantic import ValidationError

        from florence_operator.api.problems import problems

        if isinstance(error, ValidationError):
            lines = problems(error, model=_model_titled(error.title))
            return lines, ConfigurationError.exit_code
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return [f"{what} (run '{program_name()} --debug …' for the traceback)"], FlorenceError.exit_code


def _model_titled(title: str) -> type[BaseModel] | None:
    from florence.kinds import KINDS  # only a failure should wait for it

    for kind in KINDS.values():
        if kind.settings.__name__ == title:
            return kind.settings
    if title not in _MODEL_MODULES:
        return None
    model: type[BaseModel] = getattr(importlib.import_module(_MODEL_MODULES[title]), title)
    return model


def silence_stdout() -> None:
    """Send what is left for stdout nowhere: the interpreter's last flush must not fail again."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # a test's stream has none
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)

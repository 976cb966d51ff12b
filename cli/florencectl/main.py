"""The ``florencectl`` program: its commands, global options, and the exit code of a failure.

Exit codes: 0 done, 1 failed (also a job that was watched), 2 wrong usage or configuration, 3 not
found or unusable data, 4 not authorised, 5 waited too long, 75 try again, 130 interrupted;
:mod:`florence.errors` has those of stages.
"""

from __future__ import annotations

import importlib
import os
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from florencectl.examples import with_examples
from florencectl.failures import report, silence_stdout
from florencectl.output import ProgressStyle, be_plain, be_quiet, show_progress_as
from florencectl.program import program_name

# name: (module, one line of help). A module holds a Typer group as `app`, or a function named as
# the command; it is imported when the command is used: help and completion never wait for torch.
COMMANDS: dict[str, tuple[str, str]] = {
    "submit": ("florencectl.commands.submit", "Run a job on a cluster, or on this machine."),
    "sweep": ("florencectl.commands.sweep", "Run a job with many values of its settings."),
    "get": ("florencectl.commands.runs", "List jobs, or show some."),
    "top": ("florencectl.commands.top", "Show the stages at work, live."),
    "describe": ("florencectl.commands.stories", "Tell a job's whole story."),
    "why": ("florencectl.commands.stories", "Why a job waits, stalls or failed, in a paragraph."),
    "events": ("florencectl.commands.events", "What Kubernetes tells of a job and its pods."),
    "logs": ("florencectl.commands.runs", "Print the log of a job's stage."),
    "evidence": ("florencectl.commands.evidence", "What the ranks did that would not stop."),
    "exec": ("florencectl.commands.execute", "Run a program in the pod of a rank."),
    "wait": ("florencectl.commands.control", "Wait for a job."),
    "stop": ("florencectl.commands.control", "Stop a job after a checkpoint."),
    "suspend": ("florencectl.commands.control", "The same as stop."),
    "resume": ("florencectl.commands.control", "Go on with a suspended job."),
    "retry": ("florencectl.commands.control", "Run a failed job again."),
    "delete": ("florencectl.commands.runs", "Delete jobs."),
    "artifacts": ("florencectl.commands.artifacts", "List and fetch what a job has stored."),
    "storage": (
        "florencectl.commands.storage",
        "Prepare, check and clean a bucket that a team shares.",
    ),
    "doctor": ("florencectl.commands.doctor", "Check whether a cluster is fit for jobs."),
    "plan": (
        "florencectl.commands.plan",
        "Memory, speed and days of a training job, before it runs.",
    ),
    "predict": ("florencectl.commands.predict", "Classify images with words of your choice."),
    "embed": (
        "florencectl.commands.embed",
        "Write the embeddings of images, videos and texts to a file.",
    ),
    "search": ("florencectl.commands.search", "Find images and videos by a text."),
    "serve": ("florencectl.commands.serve", "Answer HTTP requests with a trained model."),
    "model": ("florencectl.commands.model", "Bring models in from other projects."),
    "export": ("florencectl.commands.export", "Write a model as other programs load it."),
    "models": (
        "florencectl.commands.models",
        "List, compare and promote the models that jobs registered in MLflow.",
    ),
    "pipeline": (
        "florencectl.commands.pipeline",
        "Kubeflow pipelines of jobs: compile, run here, submit to a server.",
    ),
    "data": ("florencectl.commands.data", "Build and inspect training data."),
    "ui": ("florencectl.commands.ui", "Serve the metrics of the runs on this machine."),
    "completion": ("florencectl.commands.completion", "Print the completion script of a shell."),
    "version": ("florencectl.commands.version", "Print the version."),
}


EVERYWHERE = {"-q": be_quiet, "--quiet": be_quiet, "--no-color": be_plain}


class LazyGroup(TyperGroup):
    """Lists its commands without importing them, and turns failures into exit codes."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (_, summary) in COMMANDS.items():
            self.add_command(TyperCommand(name=name, help=summary), name)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that ``args`` begin with, imported now, and the arguments left for it."""
        name, command, rest = super().resolve_command(ctx, spelt_out(args))
        return name, (load_command(name) if name in COMMANDS else command), rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; any failure ends as one report on stderr and its exit code."""
        try:
            result = super().invoke(ctx)
            typer.get_text_stream("stdout").flush()
        except BrokenPipeError:  # the reader has seen enough
            silence_stdout()
            raise typer.Exit(0) from None
        except (typer.Exit, typer.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if is_usage_error(error):
                raise
            raise typer.Exit(report(error, debug=ctx.params["debug"])) from None
        return result


def spelt_out(arguments: list[str]) -> list[str]:
    """Arguments as the commands take them: ``--dry-run`` alone means ``--dry-run=client``.

    Options that hold for every command are obeyed wherever they stand, and taken out.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept: list[str] = []
    given = iter(arguments[:end])
    for argument in given:
        name, equals, value = argument.partition("=")
        if argument in EVERYWHERE:
            EVERYWHERE[argument]()
        elif name == "--progress":
            show_progress_as(value if equals else next(given, ""))
        else:
            kept.append("--dry-run=client" if argument == "--dry-run" else argument)
    return kept + arguments[end:]


def is_usage_error(error: BaseException) -> bool:
    """Whether Click itself reports the error, with the command's usage and exit code 2."""
    return hasattr(error, "exit_code") and hasattr(error, "format_message")


def load_command(name: str) -> Any:
    """The Click command that a command's module declares."""
    module = importlib.import_module(COMMANDS[name][0])
    declared = getattr(module, "app", None)
    if declared is None:
        declared = typer.Typer(add_completion=False, rich_markup_mode=None)
        declared.command(name)(getattr(module, name))
    command = typer.main.get_command(declared)
    command.name = name
    return with_examples(command, name, program_name())


app = typer.Typer(
    name="florencectl",
    cls=LazyGroup,
    add_completion=False,  # `florencectl completion` prints the script
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        load_command("version").callback()
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Print the traceback of a failure.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="No notes on stderr, only failures.")
    ] = False,
    no_color: Annotated[
        bool, typer.Option("--no-color", help="No colours, as NO_COLOR=1.")
    ] = False,
    progress: Annotated[
        str,
        typer.Option(
            metavar="|".join(ProgressStyle),
            help="How runs are shown: bars on a terminal, plain lines, or a JSON document a line "
            "on stderr for programs.",
        ),
    ] = ProgressStyle.AUTO.value,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Train vision foundation models on Kubernetes, or on this machine."""
    if quiet:
        be_quiet()
    if no_color:
        be_plain()
    if progress != ProgressStyle.AUTO:
        show_progress_as(progress)


def main() -> None:
    """The console script."""
    name = program_name()
    if "_FLORENCECTL_COMPLETE" in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]  # no __all__

        completion_init()
        name = "florencectl"  # the variable is named after it
    app(prog_name=name)


if __name__ == "__main__":
    main()

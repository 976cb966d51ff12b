"""``florencectl pipeline``: Kubeflow pipelines of FlorenceJobs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from florence.errors import ConfigurationError
from florencectl.output import Format, note, print_list

app = typer.Typer(
    name="pipeline",
    help="Kubeflow pipelines of jobs: compile them, run them here, submit them to a server.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="PIPELINE", help="As of 'pipeline list'.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Argument of the pipeline; NAME=@FILE is the text of a file, such as a FlorenceJob. "
        "Repeated for the elements of a list.",
    ),
]
Image = Annotated[
    str | None, typer.Option("--image", help="Image of the steps; default: the released one.")
]


@app.callback()
def group() -> None:
    """Kubeflow pipelines of jobs: compile them, run them here, submit them to a server."""


@app.command("list")
def list_pipelines(
    output: Annotated[
        Format, typer.Option("-o", "--output", help="table, wide, json, yaml or name.")
    ] = Format.TABLE,
) -> None:
    """List the pipelines with their arguments; those in brackets may be left out."""
    from florence_jobs.pipelines.definitions import PIPELINES
    from florence_jobs.pipelines.parameters import parameters_of

    rows = []
    for name, make in PIPELINES.items():
        known = parameters_of(name).values()
        needed = [each.name for each in known if each.required]
        free = [f"[{each.name}]" for each in known if not each.required]
        about = (make.__doc__ or "").strip()
        rows.append({"name": name, "arguments": " ".join(sorted(needed)), "what": about,
                     "options": " ".join(sorted(free))})  # fmt: skip
    print_list(rows, ["name", "arguments", "what"], output, wide=["options"])


@app.command("compile")
def compile_pipeline(
    name: Name,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="File to write; default: stdout.")
    ] = None,
    image: Image = None,
) -> None:
    """Write a pipeline as the YAML that KFP takes."""
    from florence_jobs.pipelines.compiling import compiled

    text = compiled(name, image)
    if file is None:
        print(text, end="")
        return
    file.write_text(text, encoding="utf-8")
    note(f"{file}: upload it in KFP's pages, or use 'florencectl pipeline submit'")


@app.command("run")
def run(
    name: Name,
    local: Annotated[bool, typer.Option("--local", help="On this machine.")] = False,
    assignments: Set = None,
) -> None:
    """Run a whole pipeline on this machine, its jobs as 'submit --local' runs them.

    Without arguments it runs on the built-in scanned digits, in minutes.
    """
    if not local:
        raise ConfigurationError("give --local, or use 'florencectl pipeline submit --endpoint'")
    from florence.home import florence_home
    from florence_jobs.pipelines.examples import example_arguments
    from florence_jobs.pipelines.local_run import run_here
    from florence_jobs.pipelines.parameters import arguments_of, check_complete

    arguments = arguments_of(name, assignments or [])
    if not arguments:
        arguments = example_arguments(name)
        note(f"{name}: on the built-in scanned digits; --set gives arguments of your own")
    check_complete(name, arguments)
    folder = run_here(name, arguments, florence_home())
    note(f"outputs of the steps: {folder}")
    note("models: 'florencectl models list'")


@app.command("submit")
def submit(
    name: Name,
    endpoint: Annotated[
        str, typer.Option("--endpoint", envvar="KFP_ENDPOINT", help="URL of the KFP server.")
    ],
    assignments: Set = None,
    experiment: Annotated[str, typer.Option(help="KFP's experiment.")] = "florence",
    run_name: Annotated[
        str, typer.Option("--name", help="Name of the run; default: the pipeline's.")
    ] = "",
    cron: Annotated[
        str,
        typer.Option(
            help="Run it again and again: five fields, such as '0 2 * * *' for every night at two."
        ),
    ] = "",
    namespace: Annotated[
        str, typer.Option("-n", "--namespace", help="Of a KFP with several users.")
    ] = "",
    service_account: Annotated[
        str, typer.Option(help="Of the steps' pods; default: the server's.")
    ] = "",
    token: Annotated[
        str, typer.Option(envvar="KFP_TOKEN", help="Bearer token.", show_envvar=True)
    ] = "",
    cookies: Annotated[
        str, typer.Option(envvar="KFP_COOKIES", help="Cookies of a session in a browser.")
    ] = "",
    image: Image = None,
) -> None:
    """Upload a pipeline to a KFP server and start it, once or on a schedule."""
    from florence_jobs.pipelines.compiling import compiled
    from florence_jobs.pipelines.parameters import arguments_of, check_complete
    from florence_jobs.pipelines.server import PipelineServer, with_seconds

    arguments = arguments_of(name, assignments or [])
    check_complete(name, arguments)
    if cron:
        with_seconds(cron)
    server = PipelineServer(endpoint, token=token, cookies=cookies, namespace=namespace)
    done = server.submit(
        name,
        compiled(name, image),
        arguments,
        experiment=experiment,
        run_name=run_name,
        cron=cron,
        service_account=service_account,
    )
    print(done.url)

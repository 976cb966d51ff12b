"""The components of pipelines: thin bodies around what is importable and tested without KFP.

KFP copies the source of each body into the pipeline and runs it in the image of the jobs, so the
bodies import what they use, and annotations are no strings here.
"""

# mypy: disable-error-code="untyped-decorator,type-arg,valid-type,no-any-return"
# KFP has no types, and takes annotations that are values.

from functools import partial
from typing import Any, NamedTuple

from kfp import dsl

IMAGE = "florence-jobs:0.1.0"
"""Image of the steps; compiling for another one replaces it."""

_component: Any = partial(dsl.component, base_image=IMAGE, install_kfp_package=False)

# What is set on the task of a job's step is meant for the job's pods.
_PASSED_ON = [
    dsl.TaskConfigField.RESOURCES,
    dsl.TaskConfigField.KUBERNETES_TOLERATIONS,
    dsl.TaskConfigField.KUBERNETES_NODE_SELECTOR,
    dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.ENV, apply_to_task=True),
    dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.KUBERNETES_VOLUMES, apply_to_task=True),
]


@_component(task_config_passthroughs=_PASSED_ON)
def florence_job(
    run_id: str,
    task_name: str,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    task_config: dsl.TaskConfig,
    job: str = "",
    recipe: str = "",
    settings: dict = {},  # noqa: B006  (KFP keeps it as JSON)
    initial_model: str = "",
    namespace: str = "",
    on_termination: str = "suspend",
) -> NamedTuple(
    "Outputs", [("model_uri", str), ("job_name", str), ("mlflow_run", str), ("results", dict)]
):
    """Run a FlorenceJob to its end.

    Args:
        run_id: of the pipeline's run.
        task_name: of this task; with the run it names the job.
        job: a FlorenceJob in YAML; empty for a recipe.
        recipe: name of a recipe; empty for a job.
        settings: changes by stage.field.
        initial_model: URI of the model that it starts from.
        namespace: of the job; empty for the step's own.
        on_termination: suspend, delete or keep the job when the run is terminated.
    """
    from florence_jobs.pipelines.job_step import StepOutputs, job_step

    outputs = StepOutputs(
        model=model, metrics=metrics, confusion=confusion, report=report, summary=summary
    )
    return job_step(
        outputs,
        run_id=run_id,
        task_name=task_name,
        job=job,
        recipe=recipe,
        settings=settings,
        initial_model=initial_model,
        namespace=namespace,
        on_termination=on_termination,
        task=vars(task_config) if task_config else {},
    )


@_component(task_config_passthroughs=_PASSED_ON)
def evaluate_model(
    run_id: str,
    task_name: str,
    model_uri: str,
    evaluation: str,
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    task_config: dsl.TaskConfig,
    namespace: str = "",
) -> NamedTuple("Outputs", [("job_name", str), ("mlflow_run", str), ("results", dict)]):
    """Measure a model by a FlorenceJob whose stages evaluate.

    Args:
        run_id: of the pipeline's run.
        task_name: of this task.
        model_uri: of the model, or models:/NAME@champion.
        evaluation: a FlorenceJob in YAML; its stages start from the model.
        namespace: of the job; empty for the step's own.
    """
    from florence_jobs.pipelines.job_step import StepOutputs, job_step

    outputs = StepOutputs(
        model=None, metrics=metrics, confusion=confusion, report=report, summary=summary
    )
    done = job_step(
        outputs,
        run_id=run_id,
        task_name=task_name,
        job=evaluation,
        recipe="",
        settings={},
        initial_model=model_uri,
        namespace=namespace,
        on_termination="delete",
        task=vars(task_config) if task_config else {},
    )
    return done.job_name, done.mlflow_run, done.results


@_component
def import_data(
    format: str,  # noqa: A002  (the name on KFP's pages)
    sources: list,
    out: str,
    settings: dict = {},  # noqa: B006
    endpoint: str = "",
) -> NamedTuple("Outputs", [("uri", str), ("samples", int), ("fingerprint", str)]):
    """Write data of a known format as shards, once; see 'florencectl data import'."""
    from florence_jobs.pipelines import running, steps

    with running.exit_code():
        done = steps.import_data(format, sources, out, settings, endpoint)
        return done.uri, done.samples, done.fingerprint


@_component
def curate_data(
    uri: str,
    out: str,
    settings: dict = {},  # noqa: B006
    endpoint: str = "",
) -> NamedTuple("Outputs", [("uri", str), ("samples", int), ("fingerprint", str)]):
    """Write the samples that pass every filter; see 'florencectl data curate'."""
    from florence_jobs.pipelines import running, steps

    with running.exit_code():
        done = steps.curate_data(uri, out, settings, endpoint)
        return done.uri, done.samples, done.fingerprint


@_component
def index_data(uri: str, endpoint: str = "") -> NamedTuple(
    "Outputs", [("uri", str), ("samples", int), ("fingerprint", str)]
):
    """Write a byte index beside every shard; fails where a shard cannot be used."""
    from florence_jobs.pipelines import running, steps

    with running.exit_code():
        done = steps.index_data(uri, endpoint)
        return done.uri, done.samples, done.fingerprint


@_component
def plan_job(
    plan: dsl.Output[dsl.Markdown],
    job: str = "",
    recipe: str = "",
    settings: dict = {},  # noqa: B006
) -> None:
    """Estimate the memory of a job's stages; fails where one does not fit into its GPUs."""
    from florence_jobs.pipelines import running, steps
    from florence_jobs.pipelines.requests import requested

    with running.exit_code():
        text = steps.plan_job(requested(job, recipe=recipe, settings=settings))
        with open(plan.path, "w", encoding="utf-8") as file:
            file.write(text)


@_component
def start_from(model_uri: str, jobs: list) -> list:
    """Let the first stages of jobs start from a model.

    Args:
        model_uri: of the model.
        jobs: FlorenceJobs in YAML.
    """
    from florence_jobs.pipelines import running, steps

    with running.exit_code():
        return steps.start_from(model_uri, jobs)


@_component
def compare_models(
    model: str,
    comparison: dsl.Output[dsl.Markdown],
    gate: str = "",
    alias: str = "champion",
    mlflow: str = "",
) -> NamedTuple("Outputs", [("passed", bool), ("version", str)]):
    """Hold a model against a gate and the registry's champion; moves nothing.

    Args:
        model: its URI, or models:/NAME@candidate.
        gate: such as 'digits/top1 >= champion + 0.002'; empty always opens.
        alias: whose version it is compared with.
        mlflow: URI of the MLflow server; empty for MLFLOW_TRACKING_URI.
    """
    from florence_jobs.pipelines import running, steps

    with running.exit_code():
        done = steps.compare_models(model, gate, alias=alias, store=mlflow)
        lines = [f"# {done.version}", "", *(f"- {line}" for line in done.lines)]
        print("\n".join(done.lines), flush=True)
        with open(comparison.path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        return done.passed, done.version


@_component
def register_model(
    model: str, when: bool = True, alias: str = "champion", gate: str = "", mlflow: str = ""
) -> NamedTuple("Outputs", [("version", str)]):
    """Let an alias of MLflow's registry stand for a model, if the gate opens.

    Args:
        model: its URI, or models:/NAME/3.
        when: false does nothing: what a gate has said before.
        alias: that is moved.
        gate: a condition; empty always opens.
        mlflow: URI of the MLflow server; empty for MLFLOW_TRACKING_URI.
    """
    from florence_jobs.pipelines import running, steps

    if not when:
        print(f"{model}: its gate is closed: {alias} stays what it is", flush=True)
        return ("",)
    with running.exit_code():
        version = steps.register_model(model, alias=alias, gate=gate, store=mlflow)
        print(f"{alias} is {version}", flush=True)
        return (version,)


@_component
def notify(message: str, url: str = "", unless: bool = False) -> None:
    """Post a message to a webhook of Slack, Teams or Mattermost; without one it is printed.

    Args:
        message: the text.
        url: of the webhook.
        unless: true does nothing: what a gate has said.
    """
    from florence_jobs.pipelines import running, steps

    if unless:
        return
    with running.exit_code():
        steps.notify(url, message)


@_component
def notify_end(status: dsl.PipelineTaskFinalStatus, url: str = "") -> None:
    """Tell how a run ended; for an exit handler."""
    from florence_jobs.pipelines import running, steps

    with running.exit_code():
        steps.notify(url, f"{status.pipeline_job_resource_name}: {status.state}")

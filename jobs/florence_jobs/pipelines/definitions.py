"""The pipelines of this project.

Each is made by a function: on this machine, where KFP's local orchestration has no exit handlers,
runs do not tell of their end.
"""

# mypy: disable-error-code="untyped-decorator,type-arg,valid-type,no-any-return"
# KFP has no types, and takes annotations that are values.

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from kfp import dsl

from florence_jobs.pipelines import components

_RUN, _TASK = dsl.PIPELINE_JOB_ID_PLACEHOLDER, dsl.PIPELINE_TASK_NAME_PLACEHOLDER
RETRIES = 2
"""A step that is lost with its node starts again, and adopts the job that it had made."""


def _told(url: Any, here: bool) -> AbstractContextManager[Any]:
    """What becomes of the run is told in the end, whatever happens within."""
    if here:
        return nullcontext()
    return dsl.ExitHandler(components.notify_end(url=url).set_caching_options(False))


def _job(**arguments: Any) -> Any:
    task = components.florence_job(run_id=_RUN, task_name=_TASK, **arguments)
    return _always(task).set_retry(num_retries=RETRIES, backoff_duration="30s")


def _evaluation(model: Any, evaluation: Any, namespace: Any) -> Any:
    task = components.evaluate_model(
        run_id=_RUN, task_name=_TASK, model_uri=model, evaluation=evaluation, namespace=namespace
    )
    return _always(task).set_retry(num_retries=RETRIES, backoff_duration="30s")


def _evaluated_and_promoted(
    model: Any, evaluation: Any, gate: Any, alias: Any, mlflow: Any, namespace: Any
) -> None:
    evaluated = _evaluation(model, evaluation, namespace)
    _promoted(model, gate, alias, mlflow, after=(evaluated,))


def _promoted(model: Any, gate: Any, alias: Any, mlflow: Any, after: tuple[Any, ...] = ()) -> None:
    compared = components.compare_models(model=model, gate=gate, alias=alias, mlflow=mlflow)
    _always(compared).after(*after)
    # Not dsl.If: KFP's local orchestration skips whatever is in one.
    _always(
        components.register_model(
            model=compared.outputs["version"],
            when=compared.outputs["passed"],
            alias=alias,
            gate=gate,
            mlflow=mlflow,
        )
    )


def _always(task: Any) -> Any:
    """A step that acts or looks at what changes is never answered from KFP's cache."""
    return task.set_caching_options(False)


def pretrain_and_adapt(*, here: bool = False) -> Any:
    """Index, plan, pretrain, evaluate and promote a model; adapt it in several ways at once."""

    @dsl.pipeline(name="pretrain-and-adapt", description=pretrain_and_adapt.__doc__)
    def pipeline(
        data: str,
        pretrain: str,
        evaluation: str,
        adaptations: list,
        gate: str = "",
        adaptation_gate: str = "",
        alias: str = "champion",
        mlflow: str = "",
        endpoint: str = "",
        namespace: str = "",
        notify_url: str = "",
    ) -> None:
        with _told(notify_url, here):
            indexed = _always(components.index_data(uri=data, endpoint=endpoint))
            planned = _always(components.plan_job(job=pretrain))
            pretrained = _job(job=pretrain, namespace=namespace).after(indexed, planned)
            _evaluated_and_promoted(
                pretrained.outputs["model_uri"], evaluation, gate, alias, mlflow, namespace
            )
            # In the jobs, not beside them: KFP's local orchestration gives what a loop takes from a
            # task outside of it the loop's item instead.
            started = _always(
                components.start_from(model_uri=pretrained.outputs["model_uri"], jobs=adaptations)
            )
            with dsl.ParallelFor(started.output, name="adaptations") as adaptation:
                adapted = _job(job=adaptation, namespace=namespace)
                _promoted(adapted.outputs["model_uri"], adaptation_gate, alias, mlflow)

    return pipeline


def finetune_and_promote(*, here: bool = False) -> Any:
    """Adapt a model, evaluate what comes of it, and promote it if the gate opens."""

    @dsl.pipeline(name="finetune-and-promote", description=finetune_and_promote.__doc__)
    def pipeline(
        job: str,
        model: str,
        evaluation: str,
        gate: str = "",
        alias: str = "champion",
        mlflow: str = "",
        namespace: str = "",
        notify_url: str = "",
    ) -> None:
        with _told(notify_url, here):
            planned = _always(components.plan_job(job=job))
            tuned = _job(job=job, initial_model=model, namespace=namespace).after(planned)
            _evaluated_and_promoted(
                tuned.outputs["model_uri"], evaluation, gate, alias, mlflow, namespace
            )

    return pipeline


def nightly_evaluation(*, here: bool = False) -> Any:
    """Measure the champion again, and tell where it no longer does what it should."""

    @dsl.pipeline(name="nightly-evaluation", description=nightly_evaluation.__doc__)
    def pipeline(
        model: str,
        evaluation: str,
        gate: str,
        mlflow: str = "",
        namespace: str = "",
        notify_url: str = "",
    ) -> None:
        with _told(notify_url, here):
            evaluated = _evaluation(model, evaluation, namespace)
            compared = _always(components.compare_models(model=model, gate=gate, mlflow=mlflow))
            compared.after(evaluated)
            _always(
                components.notify(
                    message="The champion does not pass its gate any more",
                    url=notify_url,
                    unless=compared.outputs["passed"],
                )
            )

    return pipeline


PIPELINES: dict[str, Callable[..., Any]] = {
    "pretrain-and-adapt": pretrain_and_adapt,
    "finetune-and-promote": finetune_and_promote,
    "nightly-evaluation": nightly_evaluation,
}
"""Every pipeline by its name on KFP's pages."""

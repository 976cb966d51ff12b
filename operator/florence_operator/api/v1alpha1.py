"""FlorenceJob, group florence.dev, version v1alpha1: what users apply and what they read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, create_model, model_validator

from florence.config import ModelConfig, StageSettings
from florence.config.base import Holds, Settings, location, setting
from florence.config.storage import S3Settings
from florence.kinds import KINDS
from florence.tasks.kind import Kind
from florence_operator.api.pods import NodePool, Pods
from florence_operator.api.refusals import refusal
from florence_operator.api.run_policy import RunPolicy
from florence_operator.api.status import JobStatus

GROUP = "florence.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FlorenceJob"
CONTROLLER = f"{GROUP}/florence-operator"
"""This operator, in ``spec.managedBy``."""
ARTIFACTS_FINALIZER = "florence.dev/artifacts"
"""Holds a job with ``deleteWithJob`` until the operator has removed its artifacts."""

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40)]


class Artifacts(Settings):
    """Where checkpoints, models and results go."""

    uri: str | None = setting(
        None, description="folder or s3://bucket/prefix; a local run's default is its home folder"
    )
    endpoint: str | None = setting(
        None, description="URL of the S3 service; default: the cloud's own"
    )
    region: str | None = setting(None, description="S3 region")
    credentials_secret: str | None = setting(
        None, description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, on a cluster"
    )
    delete_with_job: bool = setting(
        False, description="delete the artifacts when the job is deleted"
    )

    @property
    def s3(self) -> S3Settings:
        """The S3 service that ``uri`` and the stages' data are on."""
        return S3Settings(endpoint=self.endpoint, region=self.region)


class Tracking(Settings):
    """Where metrics go."""

    mlflow_uri: str | None = setting(
        None,
        description="MLflow tracking server; a local run's default is a SQLite file in its "
        "home folder",
    )
    experiment: str = setting(
        "florence",
        description="MLflow experiment: jobs of one experiment are compared in one table",
        min_length=1,
    )
    tensorboard: bool = setting(
        False,
        description="also write TensorBoard logs, under tensorboard/ of each stage's artifacts; "
        "into S3 when a stage ends",
    )
    credentials_secret: str | None = setting(
        None,
        description="Secret with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
        "MLFLOW_TRACKING_TOKEN, on a cluster",
    )


class Resources(Settings):
    """What a stage's pods get, each."""

    # The names of pods have room for four digits.
    workers: int = setting(1, description="pods", ge=1, le=10_000)
    gpus_per_worker: int = setting(
        0, description="GPUs of a pod; 0 trains on the CPU, one process a pod", ge=0, le=1_000
    )
    cpu: str | int | None = setting(
        None, description="CPU request of a pod, as Kubernetes writes it"
    )
    memory: str | None = setting(
        None, description="memory request and limit of a pod, as Kubernetes writes it"
    )

    @property
    def processes(self) -> int:
        """Ranks over all pods."""
        return self.workers * max(self.gpus_per_worker, 1)


class StageBase(Settings):
    """A stage without its kinds; :class:`Stage` has a field for each of them."""

    name: Name = setting(description="name of the stage, unique in the job")
    depends_on: tuple[Name, ...] = setting(
        (), description="stages that must succeed first; the model starts from the first one's"
    )
    initial_model: str | None = location(
        None,
        holds=Holds.MODEL,
        description="URI of a model, of any job or imported, that the stage starts from, or its "
        "name in MLflow's registry: models:/NAME@champion. "
        "Default: that of the stages it depends on",
    )
    resources: Resources = setting(Resources(), description="pods and what each gets")

    @model_validator(mode="after")
    def _exactly_one_kind(self) -> Self:
        kinds = [name for name in KINDS if getattr(self, name) is not None]
        if len(kinds) != 1:
            has = f"has {' and '.join(kinds)}" if kinds else "has none"
            raise ValueError(
                f"a stage needs exactly one of {', '.join(KINDS)}; '{self.name}' {has}"
            )
        if KINDS[kinds[0]].needs_model and not self.depends_on and self.initial_model is None:
            raise refusal(
                f"'{self.name}' ({kinds[0]}) needs a model: name the stage that trains it, or "
                "give initialModel",
                "dependsOn",
            )
        return self

    @property
    def kind(self) -> Kind:
        """What the stage does."""
        return next(kind for name, kind in KINDS.items() if getattr(self, name) is not None)

    @property
    def config(self) -> StageSettings:
        """The settings of the stage's kind."""
        config = getattr(self, self.kind.name)
        assert isinstance(config, StageSettings)
        return config

    @property
    def model_task(self) -> str | None:
        """The task of the model that the stage leaves; ``None`` when it leaves none."""
        return self.kind.makes(self.config)


if TYPE_CHECKING:

    class Stage(StageBase):
        """One stage. Its kinds' fields come from the registry, which mypy cannot follow."""

        def __init__(self, **fields: Any) -> None: ...

else:
    Stage = create_model(
        "Stage",
        __base__=StageBase,
        __module__=__name__,
        __doc__="One stage: a name, what it waits for, and exactly one kind of work.",
        **{
            kind.name: (kind.settings | None, setting(None, description=kind.help))
            for kind in KINDS.values()
        },
    )


class JobSpec(Settings):
    """What a FlorenceJob asks for."""

    image: str | None = setting(None, description="container image of the stages, on a cluster")
    model: ModelConfig = setting(ModelConfig(), description="architecture of the model")
    artifacts: Artifacts = setting(
        Artifacts(), description="where checkpoints, models and results go"
    )
    tracking: Tracking = setting(Tracking(), description="where metrics go")
    node_pool: NodePool = setting(NodePool(), description="which nodes the pods may run on")
    pods: Pods = setting(Pods(), description="how the stages' pods are made")
    stages: tuple[Stage, ...] = setting(description="the stages", min_length=1, max_length=32)
    run_policy: RunPolicy = setting(RunPolicy(), description="pauses, retries and time limits")
    managed_by: str | None = setting(
        None,
        description="the controller that runs the job, such as kueue.x-k8s.io/multikueue; an "
        f"operator leaves a job alone that names another than {CONTROLLER}. It never changes",
        pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[a-zA-Z0-9]([-a-zA-Z0-9_.]*[a-zA-Z0-9])?$",
        max_length=63,
    )

    @model_validator(mode="after")
    def _stages_form_a_dag(self) -> Self:
        names = [stage.name for stage in self.stages]
        for index, name in enumerate(names):
            if name in names[:index]:
                found = f"the name '{name}' is used {names.count(name)} times"
                raise refusal(found, "stages", index, "name")
        for index, stage in enumerate(self.stages):
            for wanted in stage.depends_on:
                if wanted not in names:
                    found = f"'{stage.name}' depends on '{wanted}', which is not a stage"
                    raise refusal(found, "stages", index, "dependsOn")
        self.in_order()
        for index, stage in enumerate(self.stages):
            source = self.model_source(stage)
            if source is not None and (unfit := _unfit_start(stage, source)):
                raise refusal(unfit, "stages", index, "dependsOn")
        return self

    def in_order(self) -> list[Stage]:
        """The stages so that each comes after what it depends on; ties keep the written order.

        Raises:
            ValidationError: the dependencies form a cycle.
        """
        waiting, done, order = list(self.stages), set[str](), list[Stage]()
        while waiting:
            ready = next((s for s in waiting if done.issuperset(s.depends_on)), None)
            if ready is None:
                found = f"{', '.join(s.name for s in waiting)} depend on each other in a cycle"
                raise refusal(found, "stages")
            waiting.remove(ready)
            done.add(ready.name)
            order.append(ready)
        return order

    def model_source(self, stage: Stage) -> Stage | None:
        """The stage whose final model ``stage`` starts from, or ``None`` when it starts afresh.

        That is its first dependency or, where that one leaves no model, that one's own source.
        A stage with ``initialModel``, and one whose source has it, starts from there instead.
        """
        while stage.depends_on and stage.initial_model is None:
            stage = self.stage(stage.depends_on[0])
            if stage.model_task is not None:
                return stage
        return None

    def initial_model(self, stage: Stage) -> str | None:
        """The URI of a model outside the job that ``stage`` starts from, if it does."""
        while stage.initial_model is None and stage.depends_on:
            stage = self.stage(stage.depends_on[0])
            if stage.model_task is not None:
                return None
        return stage.initial_model

    def stage(self, name: str) -> Stage:
        """The stage of that name; ``KeyError`` when there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)


def _unfit_start(stage: Stage, source: Stage) -> str | None:
    """Why a stage cannot start from the model of another; ``None`` when it can."""
    task = source.model_task
    usable = stage.kind.starts_from(stage.config)
    if task in usable:
        return None
    return (
        f"'{stage.name}' ({stage.kind.name}) cannot start from the {task} model of "
        f"'{source.name}': it takes {' or '.join(usable) or 'no'} models"
    )


class Metadata(Settings):
    """The part of Kubernetes' object metadata that a job's author writes."""

    name: Name = setting(description="name of the job")
    namespace: str | None = setting(None, description="namespace; 'default' when left out")
    labels: dict[str, str] = setting({}, description="labels")
    annotations: dict[str, str] = setting({}, description="annotations")
    uid: str | None = setting(None, description="set by the cluster, or by the local runner")
    creation_timestamp: str | None = setting(
        None, description="set by the cluster, or by the local runner"
    )
    generation: int | None = setting(None, description="set by the cluster")


class FlorenceJob(Settings):
    """A training job of several stages."""

    api_version: Literal["florence.dev/v1alpha1"] = setting(description="florence.dev/v1alpha1")
    kind: Literal["FlorenceJob"] = setting(description="FlorenceJob")
    metadata: Metadata = setting(description="name, namespace, labels")
    spec: JobSpec = setting(description="what is asked for")
    status: JobStatus | None = setting(
        None, description="what happened so far; written by the controller"
    )

    @property
    def namespace(self) -> str:
        """The job's namespace."""
        return self.metadata.namespace or "default"

    def manifest(self) -> dict[str, Any]:
        """The job as its author would write it: set fields only, no status."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": self.metadata.wire(defaults=False),
            "spec": self.spec.wire(defaults=False),
        }

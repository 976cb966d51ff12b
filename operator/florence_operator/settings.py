"""The settings of the operator: one versioned file, mounted from a ConfigMap."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import ValidationError

from florence.config.base import Settings, first_problem, setting, settings_group
from florence.errors import ConfigurationError
from florence_operator.api.duration import Duration

API_VERSION = "operator.florence.dev/v1alpha1"


class LeaderElection(Settings):
    """Which replica works; the others wait."""

    enabled: bool = setting(True, description="elect a leader among the replicas")
    lease_name: str = setting("florence-operator", description="Lease in the operator's namespace")
    lease_duration: Duration = setting(
        "15s", description="how long a leader that is not heard of is waited for"
    )
    renew_deadline: Duration = setting(
        "10s", description="how long the leader tries to renew before it gives up and exits"
    )
    retry_period: Duration = setting("2s", description="time between two tries")


class ApiClient(Settings):
    """How hard the operator presses on the API server."""

    qps: float = setting(300.0, description="requests a second", unit="1/s", gt=0)
    burst: int = setting(500, description="requests at once above that", gt=0)
    workers: int = setting(50, description="jobs reconciled at the same time", gt=0)


class StatusWrites(Settings):
    """How often progress alone is written into the status of jobs."""

    interval: Duration = setting("15s", description="time between two writes of one job's progress")
    per_second: float = setting(
        20.0, description="writes of progress a second, over all jobs", unit="1/s", gt=0
    )


class Failures(Settings):
    """How failures are noticed and attempts repeated."""

    node_grace: Duration = setting(
        "30s", description="how long a node may be not ready before its attempts are replaced"
    )
    settle: Duration = setting(
        "3s", description="how long the other pods of an attempt are watched after one failed"
    )
    first_delay: Duration = setting("5s", description="time before the second attempt")
    longest_delay: Duration = setting(
        "5m", description="time before any attempt: it doubles up to this"
    )
    gang_deadline: Duration = setting(
        "30m",
        description="how long some pods of an attempt may hold nodes while others find none, where "
        "nothing starts them together and the job has no startDeadline",
    )
    image_pull_deadline: Duration = setting(
        "10m", description="how long an image may fail to be pulled before the stage fails"
    )
    strike_half_life: Duration = setting(
        "1d", description="after how long a strike against a node weighs half"
    )
    taint_nodes: Literal["none", "PreferNoSchedule", "NoSchedule"] = setting(
        "none", description="taint that nodes get whose strikes weigh too much; none for no taint"
    )


class ProgressServer(Settings):
    """Where the pods tell how far they are."""

    port: int = setting(8443, description="TCP port, with TLS", ge=1, le=65535)
    url: str | None = setting(
        None,
        description="where pods reach it; default: https://florence-operator.<namespace>.svc:8443",
    )
    audience: str = setting(
        "florence.dev/progress", description="audience of the tokens that pods present"
    )
    interval_seconds: float = setting(
        5.0, description="time between two reports of a pod", unit="seconds", gt=0
    )
    silence: Duration = setting(
        "2m",
        description="how long a running attempt may report nothing before its stage says that it "
        "is not heard",
    )


class Certificates(Settings):
    """TLS of the webhook and of the progress server."""

    directory: str = setting(
        "/tls", description="folder with tls.crt, tls.key and ca.crt: the mounted Secret"
    )
    self_made: bool = setting(
        False, description="make and renew the certificates, and keep them in that Secret"
    )
    secret: str = setting("florence-operator-tls", description="name of that Secret")


class Webhook(Settings):
    """The admission webhook."""

    enabled: bool = setting(True, description="serve it")
    port: int = setting(9443, description="TCP port, with TLS", ge=1, le=65535)
    configuration: str = setting(
        "florence-operator", description="name of the ValidatingWebhookConfiguration"
    )
    inject_ca: bool = setting(
        False, description="write the CA into that configuration; cert-manager does it otherwise"
    )


class MetricsServer(Settings):
    """Where Prometheus reads the metrics."""

    port: int = setting(8444, description="TCP port of /metrics", ge=1, le=65535)
    protected: bool = setting(
        True,
        description="serve them over TLS, and to those only whom the API server lets get the "
        "nonResourceURL /metrics; false serves them to anybody, without TLS",
    )


class JobDefaults(Settings):
    """What jobs get that do not say otherwise."""

    image: str | None = setting(None, description="image of jobs that name none")
    mlflow_uri: str | None = setting(
        None, description="MLflow server of jobs that name none; without one nothing is tracked"
    )
    cpu: str = setting("1", description="CPU request of pods that ask for none")
    memory: str = setting("2Gi", description="memory request and limit of pods that ask for none")
    temporary_storage: str = setting(
        "50Gi", description="size of /tmp, on the node's disk, of pods that ask for none"
    )


class Allowed(Settings):
    """What jobs may ask for beyond the ordinary."""

    service_accounts: tuple[str, ...] = setting(
        (), description="ServiceAccounts that jobs may choose"
    )
    host_paths: tuple[str, ...] = setting(
        (), description="folders of the nodes which, and below which, jobs may mount to read"
    )
    writable_host_paths: tuple[str, ...] = setting(
        (), description="folders of the nodes that jobs may mount to write, and nothing below them"
    )
    labels: tuple[str, ...] = setting(
        (),
        description="labels of pods, of those that Services and controllers select by, that jobs "
        "may set: keys, or prefixes that end with /",
    )
    annotations: tuple[str, ...] = setting(
        (),
        description="annotations of pods that jobs may set: keys, or prefixes that end with /",
    )


class OperatorConfiguration(Settings):
    """Everything that a platform engineer sets."""

    api_version: Literal["operator.florence.dev/v1alpha1"] = setting(
        API_VERSION, description=API_VERSION
    )
    kind: Literal["OperatorConfiguration"] = setting(
        "OperatorConfiguration", description="OperatorConfiguration"
    )
    watch_namespaces: tuple[str, ...] = setting(
        (), description="namespaces whose jobs are run; all of them when empty"
    )
    leader_election: LeaderElection = settings_group(
        LeaderElection, description="which replica works"
    )
    api_client: ApiClient = settings_group(ApiClient, description="load on the API server")
    status_writes: StatusWrites = settings_group(
        StatusWrites, description="how often progress is written"
    )
    failures: Failures = settings_group(Failures, description="failures and retries")
    progress: ProgressServer = settings_group(ProgressServer, description="the progress server")
    certificates: Certificates = settings_group(Certificates, description="TLS")
    webhook: Webhook = settings_group(Webhook, description="the admission webhook")
    health_port: int = setting(8080, description="TCP port of /healthz and /readyz", ge=1, le=65535)
    metrics: MetricsServer = settings_group(MetricsServer, description="the metrics")
    shutdown_delay: Duration = setting(
        "5s",
        description="how long a replica that is asked to stop still answers: until the Service "
        "sends nobody to it any more",
    )
    defaults: JobDefaults = settings_group(JobDefaults, description="defaults of jobs")
    allowed: Allowed = settings_group(Allowed, description="what jobs may ask for")
    backend: Literal["auto", "PyTorchJob", "TrainJob"] = setting(
        "auto", description="kind of children of all jobs; auto leaves it to each job"
    )
    kueue: Literal["auto", "off"] = setting(
        "auto", description="auto reads Kueue's Workloads where its CRDs are installed"
    )


def load_settings(path: Path) -> OperatorConfiguration:
    """The settings in a YAML file.

    Raises:
        ConfigurationError: the file cannot be read, or a field is wrong; the message names it.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return OperatorConfiguration.model_validate(document or {})
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not valid YAML: {error}") from None
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {first_problem(error)}") from None

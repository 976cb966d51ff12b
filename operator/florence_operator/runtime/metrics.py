"""What Prometheus is told: controller-runtime's families under their names, and Florence's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

WORK_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
QUEUED_BUCKETS = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0, 604800.0)


class QueueMetrics:
    """The metrics of one work queue."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._depth = metrics.queue_depth.labels(name=name)
        self._adds = metrics.queue_adds.labels(name=name)
        self._waited = metrics.queue_duration.labels(name=name)
        self._worked = metrics.work_duration.labels(name=name)
        self._retries = metrics.queue_retries.labels(name=name)

    def added(self) -> None:
        """A key was added."""
        self._adds.inc()

    def depth(self, length: int) -> None:
        """So many keys wait."""
        self._depth.set(length)

    def got(self, length: int, waited: float) -> None:
        """A worker took a key."""
        self._depth.set(length)
        self._waited.observe(waited)

    def done(self, worked: float) -> None:
        """A worker has finished with a key."""
        self._worked.observe(worked)

    def retried(self) -> None:
        """A key failed and is tried again."""
        self._retries.inc()


class ControllerMetrics:
    """The metrics of one controller."""

    def __init__(self, metrics: Metrics, name: str, workers: int) -> None:
        self._metrics = metrics
        self._name = name
        self._active = metrics.active_workers.labels(controller=name)
        self._active.set(0)
        metrics.max_concurrent.labels(controller=name).set(workers)
        for result in ("success", "error", "requeue_after"):
            metrics.reconciles.labels(controller=name, result=result)
        metrics.reconcile_errors.labels(controller=name)
        metrics.terminal_errors.labels(controller=name)

    def started(self) -> None:
        """A reconcile began."""
        self._active.inc()

    def ended(self, outcome: str, seconds: float) -> None:
        """A reconcile ended: success, requeue_after, error or terminal."""
        self._active.dec()
        name, metrics = self._name, self._metrics
        metrics.reconcile_seconds.labels(controller=name).observe(seconds)
        result = "error" if outcome == "terminal" else outcome
        metrics.reconciles.labels(controller=name, result=result).inc()
        if result == "error":
            metrics.reconcile_errors.labels(controller=name).inc()
        if outcome == "terminal":
            metrics.terminal_errors.labels(controller=name).inc()


class Metrics:
    """Every metric of the operator, in one registry."""

    def __init__(
        self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.time
    ) -> None:
        # Otherwise each counter has a second series that says when the process began.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry
        ProcessCollector(registry=registry)
        self._clock = clock
        self._runtime(registry)
        self._queues(registry)
        self._florence(registry)

    def _runtime(self, registry: CollectorRegistry) -> None:
        self.reconciles = Counter(
            "controller_runtime_reconcile_total",
            "Reconciles by controller and result.",
            ["controller", "result"],
            registry=registry,
        )
        self.reconcile_errors = Counter(
            "controller_runtime_reconcile_errors_total",
            "Reconciles that failed.",
            ["controller"],
            registry=registry,
        )
        self.terminal_errors = Counter(
            "controller_runtime_terminal_reconcile_errors_total",
            "Reconciles that failed and are not tried again.",
            ["controller"],
            registry=registry,
        )
        self.reconcile_seconds = Histogram(
            "controller_runtime_reconcile_time_seconds",
            "Time that a reconcile took.",
            ["controller"],
            buckets=WORK_BUCKETS,
            registry=registry,
        )
        self.max_concurrent = Gauge(
            "controller_runtime_max_concurrent_reconciles",
            "Workers of a controller.",
            ["controller"],
            registry=registry,
        )
        self.active_workers = Gauge(
            "controller_runtime_active_workers",
            "Workers that are busy.",
            ["controller"],
            registry=registry,
        )
        self.requests = Counter(
            "rest_client_requests_total",
            "Requests to the API server by status code and method.",
            ["code", "method"],
            registry=registry,
        )
        self.leader = Gauge(
            "leader_election_master_status",
            "1 on the replica that holds the lease, 0 on the others.",
            ["name"],
            registry=registry,
        )

    def _queues(self, registry: CollectorRegistry) -> None:
        self.queue_depth = Gauge(
            "workqueue_depth", "Keys that wait for a worker.", ["name"], registry=registry
        )
        self.queue_adds = Counter(
            "workqueue_adds_total", "Keys added.", ["name"], registry=registry
        )
        self.queue_retries = Counter(
            "workqueue_retries_total",
            "Keys added again after a failure.",
            ["name"],
            registry=registry,
        )
        self.queue_duration = Histogram(
            "workqueue_queue_duration_seconds",
            "Time that keys waited for a worker.",
            ["name"],
            buckets=WORK_BUCKETS,
            registry=registry,
        )
        self.work_duration = Histogram(
            "workqueue_work_duration_seconds",
            "Time that workers needed for a key.",
            ["name"],
            buckets=WORK_BUCKETS,
            registry=registry,
        )

    def _florence(self, registry: CollectorRegistry) -> None:
        self.stages = Gauge(
            "florence_stages", "Stages of all jobs by state.", ["state"], registry=registry
        )
        self.stages_not_heard = Gauge(
            "florence_stages_not_heard",
            "Stages whose pods run and do not report.",
            registry=registry,
        )
        self.attempts = Counter(
            "florence_attempts_total",
            "Attempts that ended, by cause; Succeeded when there is none.",
            ["cause"],
            registry=registry,
        )
        self.gpu_seconds_used = Counter(
            "florence_gpu_seconds_used_total",
            "GPUs times time of ended attempts.",
            registry=registry,
        )
        self.gpu_seconds_lost = Counter(
            "florence_gpu_seconds_lost_total",
            "The part of it after the last checkpoints of failed attempts.",
            registry=registry,
        )
        self.stage_seconds = Counter(
            "florence_stage_seconds_total",
            "Wall time of stages up to the ends of their attempts, by what it went into.",
            ["category"],
            registry=registry,
        )
        self.queued_seconds = Histogram(
            "florence_queued_seconds",
            "Time that attempts waited in their queue.",
            buckets=QUEUED_BUCKETS,
            registry=registry,
        )
        self.node_strikes = Gauge(
            "florence_node_strikes",
            "What the strikes against a node weigh; it is avoided above 1.",
            ["node"],
            registry=registry,
        )
        self.checkpoint_age = Gauge(
            "florence_checkpoint_age_seconds",
            "Time since the newest checkpoint of a running job.",
            ["namespace", "job"],
            registry=registry,
        )
        self.status_writes = Counter(
            "florence_status_writes_total",
            "Writes of a job's status: state when it changed, progress when only that did.",
            ["kind"],
            registry=registry,
        )
        self.progress_reports = Counter(
            "florence_progress_reports_total",
            "Reports of pods by what became of them.",
            ["result"],
            registry=registry,
        )

    def queue(self, name: str) -> QueueMetrics:
        """The metrics of one work queue."""
        return QueueMetrics(self, name)

    def controller(self, name: str, workers: int) -> ControllerMetrics:
        """The metrics of one controller."""
        return ControllerMetrics(self, name, workers)

    def request(self, method: str, code: str) -> None:
        """A request to the API server was answered."""
        self.requests.labels(code=code, method=method).inc()

    def leading(self, name: str, leads: bool) -> None:
        """This replica holds the lease, or does not."""
        self.leader.labels(name=name).set(1 if leads else 0)

    def count_stages(self, counts: Mapping[str, int]) -> None:
        """So many stages are in each state; states that are not named have none."""
        for (state,) in list(self.stages._metrics):
            if state not in counts:
                self.stages.labels(state=state).set(0)
        for state, count in counts.items():
            self.stages.labels(state=state).set(count)

    def count_strikes(self, weights: Mapping[str, float]) -> None:
        """So much do the strikes of nodes weigh; nodes that are not named have none."""
        for (node,) in list(self.node_strikes._metrics):
            if node not in weights:
                self.node_strikes.remove(node)
        for node, weight in weights.items():
            self.node_strikes.labels(node=node).set(weight)

    def committed(self, namespace: str, job: str, at: float) -> None:
        """The newest checkpoint of a running job was committed at ``at``, in seconds since 1970."""
        gauge = self.checkpoint_age.labels(namespace=namespace, job=job)
        gauge.set_function(lambda: self._clock() - at)

    def ended(self, namespace: str, job: str) -> None:
        """A job has ended or is gone: its own series are dropped."""
        with suppress(KeyError):
            self.checkpoint_age.remove(namespace, job)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text form."""
        return generate_latest(self.registry)

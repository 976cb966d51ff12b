"""A small cluster in memory: Training Operator, Kueue, kubelets, garbage collection, and users."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from florence.config.progress import StageProgress
from florence_operator.api.failure import Budget, budget_of
from florence_operator.api.status import JobStatus, State
from florence_operator.api.v1alpha1 import FlorenceJob
from florence_operator.decision import Decision
from florence_operator.observe import Child, Node, Observation, Pod, QueuePlace, Report, Terminated
from florence_operator.schedule import decide
from florence_operator.settings import OperatorConfiguration

SETTINGS = OperatorConfiguration.model_validate({"progress": {"url": "https://operator:8443"}})
GRACE = 30.0


def job_document(**policy: Any) -> dict[str, Any]:
    """A job of three stages: ``a`` on two pods, ``b`` after it, and ``c`` beside them."""
    pretrain = {"data": "s3://data/shards", "steps": 100, "batchSize": 8}
    return {
        "apiVersion": "florence.dev/v1alpha1",
        "kind": "FlorenceJob",
        "metadata": {"name": "j", "namespace": "ns", "uid": "0123456789", "generation": 1},
        "spec": {
            "image": "image:1",
            "artifacts": {"uri": "s3://bucket/runs"},
            "stages": [
                {"name": "a", "resources": {"workers": 2}, "pretrain": pretrain},
                {"name": "b", "dependsOn": ["a"], "pretrain": pretrain},
                {"name": "c", "pretrain": pretrain},
            ],
            "runPolicy": policy,
        },
    }


@dataclass
class Cluster:
    """What is true, and what the operator does about it."""

    job: FlorenceJob
    now: float = 1_000_000.0
    version: int = 0
    children: dict[str, Child] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    queue: dict[str, QueuePlace] = field(default_factory=dict)
    reports: dict[tuple[str, int], Report] = field(default_factory=dict)
    zombies: set[str] = field(default_factory=set)
    """Pods whose node was away at some time: they may run beside their successors."""
    operator_started: float = 0.0
    wake: float | None = None
    history: list[JobStatus] = field(default_factory=list)

    @property
    def status(self) -> JobStatus:
        return self.job.status or JobStatus()

    @property
    def queued(self) -> bool:
        return self.job.spec.run_policy.queue is not None

    def observe(self, pods: dict[str, Pod] | None = None) -> Observation:
        """What the caches show; with ``pods`` some are shown as they were before."""
        shown = {uid: (pods or {}).get(uid, pod) for uid, pod in self.pods.items()}
        return Observation(
            job=self.job,
            now=self.now,
            children=dict(self.children),
            pods=list(shown.values()),
            nodes=dict(self.nodes),
            queue=dict(self.queue),
            progress=dict(self.reports),
            operator_started=self.operator_started,
        )

    def reconcile(self, pods: dict[str, Pod] | None = None, crash: int | None = None) -> Decision:
        """Decide and act; with ``crash`` only that many effects happen before the operator dies."""
        decision = decide(self.observe(pods), SETTINGS, ca="CA")
        effects: list[Any] = [d for start in decision.starts for d in start.documents]
        effects += [decision.status] if decision.changed else []
        effects += list(decision.delete)
        for effect in effects if crash is None else effects[:crash]:
            self._apply(effect)
        self.wake = None if decision.requeue_after is None else self.now + decision.requeue_after
        if crash is not None:
            self.restart()
        return decision

    def restart(self) -> None:
        self.reports.clear()
        self.operator_started = self.now

    def _apply(self, effect: Any) -> None:
        if isinstance(effect, JobStatus):
            # Through the wire, as the API server keeps it.
            known = JobStatus.model_validate(effect.wire())
            assert known == effect
            self.job = self.job.model_copy(update={"status": known})
            self.history.append(known)
        elif isinstance(effect, dict):
            self._create(effect)
        elif effect.kind == "PyTorchJob":
            self.delete_child(effect.name)

    def _create(self, document: dict[str, Any]) -> None:
        name = document["metadata"]["name"]
        assert name not in self.children, "a child is never applied twice"
        labels = document["metadata"]["labels"]
        self.version += 1
        self.children[name] = Child(
            name=name,
            uid=f"u{self.version}",
            stage=labels["florence.dev/stage"],
            attempt=int(labels["florence.dev/attempt"]),
            suspended="kueue.x-k8s.io/queue-name" in labels,
        )

    def delete_child(self, name: str) -> None:
        """Garbage collection is at once: the pods get SIGTERM."""
        child = self.children.pop(name, None)
        self.queue.pop(name, None)
        if child is not None:
            for pod in self.pods_of(child):
                self.delete_pod(pod)

    def pods_of(self, child: Child) -> list[Pod]:
        key = (child.stage, child.attempt)
        return [pod for pod in self.pods.values() if (pod.stage, pod.attempt) == key]

    def delete_pod(self, pod: Pod) -> None:
        if pod.over or pod.node is None:
            self.pods.pop(pod.uid, None)
        elif not pod.deleting:
            self.pods[pod.uid] = replace(pod, deleting=True, gone_by=self.now + 60)

    def training_operator(self) -> None:
        """One round of the Training Operator over all of its jobs."""
        for child in list(self.children.values()):
            pods = self.pods_of(child)
            if child.suspended:
                for pod in pods:
                    self.delete_pod(pod)
                continue
            if child.conditions & {"Failed", "Succeeded"}:
                for pod in pods:
                    if not pod.over:
                        self.delete_pod(pod)
                continue
            failed = any(p.phase == "Failed" or (p.deleting and p.phase == "Running") for p in pods)
            workers = self.job.spec.stage(child.stage).resources.workers
            done = sum(pod.phase == "Succeeded" for pod in pods)
            if failed or done == workers:
                word = "Failed" if failed else "Succeeded"
                said = replace(child, conditions=frozenset({word}), failed=self.now)
                self.children[child.name] = said
                continue
            there = {pod.index for pod in pods}
            for index in set(range(workers)) - there:
                self.version += 1
                pod = Pod(
                    name=f"{child.name}-worker-{index}",
                    uid=f"p{self.version}",
                    stage=child.stage,
                    attempt=child.attempt,
                    index=index,
                    phase="Pending",
                )
                self.pods[pod.uid] = pod

    def scheduler(self) -> None:
        ready = sorted(name for name, node in self.nodes.items() if node.ready)
        for number, pod in enumerate(list(self.pods.values())):
            if pod.phase == "Pending" and ready and not pod.deleting:
                node = ready[number % len(ready)]
                self.pods[pod.uid] = replace(pod, phase="Running", node=node)

    def kubelets(self) -> None:
        """Pods that are being deleted end, where their node answers."""
        for pod in list(self.pods.values()):
            node = self.nodes.get(pod.node or "")
            if pod.deleting and (node is None or node.ready):
                del self.pods[pod.uid]

    def end(self, pod: Pod, code: int, **how: Any) -> None:
        phase = "Failed" if code else "Succeeded"
        ended = Terminated(exit_code=code, finished=self.now, **how)
        self.pods[pod.uid] = replace(pod, phase=phase, terminated=ended)

    def report(self, stage: str, attempt: int, step: int) -> None:
        progress = StageProgress(step=step, total=100, checkpoint=f"c{step}", checkpoint_step=step)
        self.reports[stage, attempt] = Report(progress=progress, received=self.now)

    def set_node(self, name: str, ready: bool) -> None:
        self.nodes[name] = Node(name=name, ready=ready, since=self.now)
        if not ready:
            self.zombies |= {pod.uid for pod in self.pods.values() if pod.node == name}

    def remove_node(self, name: str) -> None:
        self.set_node(name, False)
        del self.nodes[name]

    def admit(self, name: str) -> None:
        self.children[name] = replace(self.children[name], suspended=False)
        self.queue[name] = QueuePlace(admitted=True)

    def evict(self, name: str) -> None:
        self.children[name] = replace(self.children[name], suspended=True)
        self.queue[name] = QueuePlace(evicted="Preempted", message="a higher priority")

    def policy(self, **changes: Any) -> None:
        policy = self.job.spec.run_policy.model_copy(update=changes)
        spec = self.job.spec.model_copy(update={"run_policy": policy})
        self.job = self.job.model_copy(update={"spec": spec})

    def cooperate(self) -> None:
        """One round in which everything goes well."""
        self.training_operator()
        self.kubelets()
        for name, child in list(self.children.items()):
            if child.suspended:
                self.admit(name)
        for pod in list(self.pods.values()):
            if pod.phase == "Running" and not pod.deleting:
                self.end(pod, 0)
        self.scheduler()
        self.reconcile()
        if self.wake is not None and self.wake > self.now:
            self.now = self.wake
        else:
            self.now += 1

    def check(self) -> None:
        """What is true at all times."""
        for stage in self.job.spec.stages:
            record = self.status.stage(stage.name)
            numbers = [attempt.number for attempt in record.attempts]
            assert numbers == list(range(1, len(numbers) + 1))
            assert all(attempt.ended for attempt in record.attempts[:-1])
            running = {
                pod.attempt
                for pod in self.pods.values()
                if pod.stage == stage.name and pod.phase == "Running" and self._answers(pod)
            }
            assert len(running) <= 1, f"attempts {running} of {stage.name} run at once"
            self._check_budgets(stage.name)

    def _answers(self, pod: Pod) -> bool:
        node = self.nodes.get(pod.node or "")
        return node is not None and node.ready and pod.uid not in self.zombies

    def _check_budgets(self, stage: str) -> None:
        record, retries = self.status.stage(stage), self.job.spec.run_policy.retries
        spent = dict.fromkeys(Budget, 0)
        for attempt in record.attempts:
            if attempt.cause and attempt.number >= record.budget_from:
                spent[budget_of(attempt.cause)] += 1
        assert spent[Budget.APPLICATION] <= retries.application + 1
        assert spent[Budget.INFRASTRUCTURE] <= retries.infrastructure + 1
        assert spent[Budget.FINAL] <= 1
        final = spent[Budget.FINAL] or any(
            spent[budget] > granted
            for budget, granted in (
                (Budget.APPLICATION, retries.application),
                (Budget.INFRASTRUCTURE, retries.infrastructure),
            )
        )
        if final:
            assert record.state is State.FAILED

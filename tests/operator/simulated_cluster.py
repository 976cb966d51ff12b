"""A small cluster in memory: the controllers of children, Kueue, kubelets, garbage collection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from florence.config.progress import PhaseSeconds, StageProgress
from florence_operator.api.attempt_pods import Pod, Terminated
from florence_operator.api.child_kinds import CHILD_KINDS
from florence_operator.api.status import JobStatus
from florence_operator.api.v1alpha1 import FlorenceJob
from florence_operator.backends.protocol import Child, ChildState
from florence_operator.observe.nodes import Node
from florence_operator.observe.observation import Report
from florence_operator.observe.queue import QueuePlace
from florence_operator.settings import OperatorConfiguration

SETTINGS = OperatorConfiguration.model_validate({"progress": {"url": "https://operator:8443"}})
GRACE = 30.0
STALL = 600.0


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
class World:
    """What is true, and what everybody but the operator does."""

    job: FlorenceJob
    now: float = 1_000_000.0
    version: int = 0
    children: dict[str, Child] = field(default_factory=dict)
    services: dict[str, str] = field(default_factory=dict)
    """By name, the uid of the child that each belongs to."""
    jobsets: dict[str, str] = field(default_factory=dict)
    """By name, the uid of the TrainJob that each belongs to."""
    runtimes: set[str] = field(default_factory=set)
    """Of TrainJobs; who deletes one of those leaves its runtime to the job."""
    served: tuple[str, ...] = ("PyTorchJob",)
    """The kinds of children whose controllers are installed."""
    pods: dict[str, Pod] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    queue: dict[str, QueuePlace] = field(default_factory=dict)
    reports: dict[tuple[str, int], Report] = field(default_factory=dict)
    zombies: set[str] = field(default_factory=set)
    """Pods whose node was away at some time: they may run beside their successors."""
    stuck: set[str] = field(default_factory=set)
    """Pods that no kubelet can kill."""
    harmed: set[tuple[str, int]] = field(default_factory=set)
    """Attempts to which something happened that may end them."""

    @property
    def status(self) -> JobStatus:
        return self.job.status or JobStatus()

    @property
    def queued(self) -> bool:
        return self.job.spec.run_policy.queue is not None

    def create(self, document: dict[str, Any]) -> None:
        """What the operator applies is made."""
        name = document["metadata"]["name"]
        if document["kind"] == "TrainingRuntime":
            self.runtimes.add(name)
            return
        assert document["kind"] in self.served
        assert document["kind"] != "TrainJob" or name in self.runtimes
        assert name not in self.children, "a child is never applied twice"
        metadata = document["metadata"]
        labels = metadata["labels"]
        self.version += 1
        self.children[name] = Child(
            kind=document["kind"],
            name=name,
            uid=f"u{self.version}",
            stage=labels["florence.dev/stage"],
            attempt=int(labels["florence.dev/attempt"]),
            state=ChildState.SUSPENDED
            if "kueue.x-k8s.io/queue-name" in labels
            else ChildState.ACTIVE,
            queued="kueue.x-k8s.io/queue-name" in labels,
            spec_hash=metadata["annotations"]["florence.dev/spec-hash"],
            created=self.now,
        )

    def delete_child(self, name: str) -> None:
        """Garbage collection is at once: the pods get SIGTERM."""
        child = self.children.pop(name, None)
        self.queue.pop(name, None)
        if child is not None:
            for pod in self.pods_of(child):
                self.delete_pod(pod)
            self.services = {s: uid for s, uid in self.services.items() if uid != child.uid}
            self.jobsets.pop(name, None)

    def orphan_child(self, name: str) -> None:
        """``kubectl delete pytorchjob --cascade=orphan``: pods and Services belong to nobody."""
        child = self.children.pop(name)
        self.queue.pop(name, None)
        self.harm(child.stage, child.attempt)
        pods = self.pods_of(child)
        if child.kind == "TrainJob":
            # Their JobSet is nobody's; they are still its Job's.
            if pods:
                self.jobsets[name] = ""
            else:
                self.jobsets.pop(name, None)
            return
        for pod in pods:
            self.pods[pod.uid] = replace(pod, owner="")
        names = {pod.name for pod in pods}
        self.services = {
            name: uid if uid != child.uid else ""
            for name, uid in self.services.items()
            if uid != child.uid or name in names
        }

    def harm(self, stage: str, attempt: int) -> None:
        self.harmed.add((stage, attempt))

    def pods_of(self, child: Child) -> list[Pod]:
        return [pod for pod in self.pods.values() if pod.owner == _controller_of(child)]

    def delete_pod(self, pod: Pod) -> None:
        if pod.over or pod.node is None:
            self._remove_pod(pod)
        elif not pod.deleting:
            deleted = {"deleting": True, "deleted": self.now, "gone_by": self.now + 60}
            self.pods[pod.uid] = replace(pod, **deleted)

    def _remove_pod(self, pod: Pod) -> None:
        self.pods.pop(pod.uid, None)
        if not pod.owner:
            # A Service without its pod leads nobody to it: who took the pod away takes it too.
            self.services.pop(pod.name, None)
        left = {pod.train_job for pod in self.pods.values()}
        if self.jobsets.get(pod.train_job) == "" and pod.train_job not in left:
            # Nothing of it runs any more, and nobody is led to it: as with such a Service.
            del self.jobsets[pod.train_job]

    def training_operator(self) -> None:
        """One round of the Training Operator, and of Trainer, JobSet and Jobs, over all children.

        Both end what is left of a gang when one of its pods has failed, and try nothing again.
        """
        for child in list(self.children.values()):
            pods = self.pods_of(child)
            if child.suspended:
                for pod in pods:
                    self.delete_pod(pod)
                continue
            if child.state in (ChildState.FAILED, ChildState.SUCCEEDED):
                for pod in pods:
                    if not pod.over:
                        self.delete_pod(pod)
                continue
            failed = any(p.phase == "Failed" or (p.deleting and p.phase == "Running") for p in pods)
            workers = self.job.spec.stage(child.stage).resources.workers
            done = sum(pod.phase == "Succeeded" for pod in pods)
            if failed or done == workers:
                state = ChildState.FAILED if failed else ChildState.SUCCEEDED
                said = replace(child, state=state, since=self.now if failed else 0.0)
                self.children[child.name] = said
                continue
            there = {pod.index for pod in pods}
            for index in set(range(workers)) - there:
                self._create_pod(child, index)

    def _create_pod(self, child: Child, index: int) -> None:
        self.version += 1
        train_job = child.name if child.kind == "TrainJob" else ""
        suffix = f"node-0-{index}-{self.version:05}" if train_job else f"worker-{index}"
        pod = Pod(
            name=f"{child.name}-{suffix}",
            uid=f"p{self.version}",
            stage=child.stage,
            attempt=child.attempt,
            index=index,
            phase="Pending",
            owner=_controller_of(child),
            container=CHILD_KINDS[child.kind].container,
            train_job=train_job,
            created=self.now,
        )
        self.pods[pod.uid] = pod
        if train_job:
            self.jobsets[child.name] = child.uid
        else:
            self.services[pod.name] = child.uid

    def delete_jobset(self, name: str) -> None:
        """Garbage collection takes its Job and that its pods."""
        del self.jobsets[name]
        for pod in list(self.pods.values()):
            if pod.train_job == name:
                self.delete_pod(pod)

    def scheduler(self) -> None:
        ready = sorted(name for name, node in self.nodes.items() if node.ready)
        for number, pod in enumerate(list(self.pods.values())):
            if pod.phase == "Pending" and ready and not pod.deleting:
                node = ready[number % len(ready)]
                self.pods[pod.uid] = replace(pod, phase="Running", node=node)

    def kubelets(self) -> None:
        """Pods that are being deleted end, where their node answers and they can be killed."""
        for pod in list(self.pods.values()):
            node = self.nodes.get(pod.node or "")
            if pod.deleting and pod.uid not in self.stuck and (node is None or node.ready):
                self._remove_pod(pod)

    def end(self, pod: Pod, code: int, **how: Any) -> None:
        phase = "Failed" if code else "Succeeded"
        ended = Terminated(exit_code=code, finished=self.now, **how)
        self.pods[pod.uid] = replace(pod, phase=phase, terminated=ended)
        if code:
            self.harm(pod.stage, pod.attempt)

    def report(self, stage: str, attempt: int, step: int) -> None:
        """Worker 0 says how far it is; as often as it likes, at the same step too."""
        # Old images count no seconds, and some count more than there were.
        counted = PhaseSeconds(train=3 * step, data_wait=step, checkpoint=step / 2, kept=2 * step)
        progress = StageProgress(
            step=step,
            total=100,
            checkpoint=f"c{step}",
            checkpoint_step=step,
            seconds=counted if step % 4 else None,
        )
        known = self.reports.get((stage, attempt))
        moved = known is None or known.progress != progress or self.now - known.heard >= 120
        received = self.now if moved or known is None else known.received
        self.reports[stage, attempt] = Report(progress=progress, received=received, heard=self.now)
        if self.now - received >= STALL:
            self.harm(stage, attempt)

    def set_node(self, name: str, ready: bool) -> None:
        self.nodes[name] = Node(name=name, ready=ready, since=self.now)
        if not ready:
            for pod in self.pods.values():
                if pod.node == name:
                    self.zombies.add(pod.uid)
                    self.harm(pod.stage, pod.attempt)

    def remove_node(self, name: str) -> None:
        self.set_node(name, False)
        del self.nodes[name]

    def admit(self, name: str) -> None:
        self.children[name] = replace(self.children[name], state=ChildState.ACTIVE)
        self.queue[name] = QueuePlace(admitted=True, active=True)

    def evict(self, name: str, reason: str = "Preempted") -> None:
        child = self.children[name]
        self.children[name] = replace(child, state=ChildState.SUSPENDED)
        self.queue[name] = QueuePlace(
            evicted=reason,
            message="a higher priority",
            active=not reason.startswith("Deactivated"),
        )
        self.harm(child.stage, child.attempt)

    def activate(self, name: str) -> None:
        """An administrator switches a Workload on again."""
        self.queue[name] = QueuePlace(active=True, reason="Pending")

    def policy(self, **changes: Any) -> None:
        policy = self.job.spec.run_policy.model_copy(update=changes)
        spec = self.job.spec.model_copy(update={"run_policy": policy})
        self.job = self.job.model_copy(update={"spec": spec})

    def answers(self, pod: Pod) -> bool:
        """Whether a pod is where somebody could see it run, and does nothing unseen."""
        node = self.nodes.get(pod.node or "")
        lost = pod.deleting and self.now >= pod.gone_by + GRACE
        return node is not None and node.ready and pod.uid not in self.zombies and not lost

    def well(self) -> Iterator[Child]:
        """The children that train as they should, and are heard."""
        for child in self.children.values():
            pods, report = self.pods_of(child), self.reports.get((child.stage, child.attempt))
            workers = self.job.spec.stage(child.stage).resources.workers
            if (
                not child.suspended
                and child.state not in (ChildState.FAILED, ChildState.SUCCEEDED)
                and len(pods) == workers
                and all(p.phase == "Running" and not p.deleting and self.answers(p) for p in pods)
                and report is not None
                and self.now - report.heard < 60
                and report.heard - report.received < STALL
            ):
                yield child


def _controller_of(child: Child) -> str:
    """The uid of what controls a child's pods: itself, or the Job that was made of it."""
    return f"job-of-{child.uid}" if child.kind == "TrainJob" else child.uid

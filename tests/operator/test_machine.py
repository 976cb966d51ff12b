"""Any sequence of events: pods, nodes, queues, users and operators that die in the middle."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from florence_operator.api.status import State
from florence_operator.api.v1alpha1 import FlorenceJob
from florence_operator.observe import Pod
from tests.operator.simulated_operator import Cluster, job_document

EXIT_CODES = st.sampled_from([0, 1, 2, 75, 137, 143])
STEPS = {
    State.PENDING: set(State),
    State.QUEUED: set(State) - {State.SUCCEEDED},
    State.STARTING: set(State),
    State.RUNNING: set(State),
    State.STALLED: set(State),
    State.RECOVERING: set(State),
    State.SUSPENDED: set(State) - {State.SUCCEEDED, State.STALLED},
    State.SUCCEEDED: {State.SUCCEEDED},
    State.FAILED: {State.FAILED},
}


class Machine(RuleBasedStateMachine):
    @initialize(queue=st.booleans(), deadline=st.booleans())
    def start(self, queue: bool, deadline: bool) -> None:
        policy: dict[str, Any] = {
            "retries": {"infrastructure": 2, "application": 1},
            "startDeadline": "2h",
        }
        if queue:
            policy["queue"] = "pool"
        if deadline:
            policy["deadline"] = "1d"
        self.cluster = Cluster(FlorenceJob.model_validate(job_document(**policy)))
        self.retries = 0
        self.before: dict[str, Pod] = {}
        for name in ("n1", "n2"):
            self.cluster.set_node(name, True)

    def _pick(self, things: list[Any], which: int) -> Any:
        return things[which % len(things)] if things else None

    @rule()
    def reconcile(self) -> None:
        self.cluster.reconcile()

    @rule()
    def reconcile_until_quiet(self) -> None:
        for _ in range(10):
            if not self.cluster.reconcile().changed:
                return
            self.cluster.check()
        raise AssertionError("the operator changes the status again and again")

    @rule(effects=st.integers(0, 6))
    def crash(self, effects: int) -> None:
        self.cluster.reconcile(crash=effects)

    @rule()
    def remember_pods(self) -> None:
        self.before = dict(self.cluster.pods)

    @rule()
    def reconcile_with_stale_pods(self) -> None:
        self.cluster.reconcile(self.before)

    @rule()
    def training_operator(self) -> None:
        self.cluster.training_operator()

    def _live(self, *, kubelets: bool, seconds: int = 1) -> None:
        """A while in which everybody does their work; without kubelets no pod ends."""
        cluster = self.cluster
        for _ in range(3):
            cluster.reconcile()
            cluster.training_operator()
            if kubelets:
                cluster.kubelets()
            for name, child in list(cluster.children.items()):
                if child.suspended and not cluster.queue.get(name):
                    cluster.admit(name)
            cluster.scheduler()
            cluster.check()
            cluster.now += seconds

    @rule(kubelets=st.booleans(), seconds=st.sampled_from([1, 4, 400]))
    def everything_starts(self, kubelets: bool, seconds: int) -> None:
        self._live(kubelets=kubelets, seconds=seconds)

    @rule(which=st.integers(0, 9), code=EXIT_CODES, kubelets=st.booleans())
    def attempt_fails(self, which: int, code: int, kubelets: bool) -> None:
        self._live(kubelets=True)
        self.pod_ends(which, code, False)
        self._live(kubelets=kubelets, seconds=4)
        self._live(kubelets=kubelets, seconds=400)

    @rule(which=st.integers(0, 9))
    def program_keeps_failing(self, which: int) -> None:
        for _ in range(3):
            self.attempt_fails(which, 1, True)

    @rule()
    def scheduler(self) -> None:
        self.cluster.scheduler()

    @rule()
    def kubelets(self) -> None:
        self.cluster.kubelets()

    @rule(which=st.integers(0, 9), code=EXIT_CODES, oom=st.booleans())
    def pod_ends(self, which: int, code: int, oom: bool) -> None:
        running = [pod for pod in self.cluster.pods.values() if pod.phase == "Running"]
        pod = self._pick(running, which)
        if pod is not None:
            self.cluster.end(pod, code, reason="OOMKilled" if oom and code == 137 else "")

    @rule(which=st.integers(0, 9))
    def stage_succeeds(self, which: int) -> None:
        child = self._pick(list(self.cluster.children.values()), which)
        for pod in self.cluster.pods_of(child) if child else ():
            if pod.phase == "Running" and not pod.deleting:
                self.cluster.end(pod, 0, message='{"metrics": {"accuracy": 0.5}}')

    @rule(which=st.integers(0, 9))
    def pod_deleted(self, which: int) -> None:
        pod = self._pick(list(self.cluster.pods.values()), which)
        if pod is not None:
            self.cluster.delete_pod(pod)

    @rule(which=st.integers(0, 9))
    def child_deleted(self, which: int) -> None:
        name = self._pick(list(self.cluster.children), which)
        if name is not None:
            self.cluster.delete_child(name)

    @rule(name=st.sampled_from(["n1", "n2"]), ready=st.booleans())
    def node_changes(self, name: str, ready: bool) -> None:
        self.cluster.set_node(name, ready)

    @rule(name=st.sampled_from(["n1", "n2"]))
    def node_vanishes(self, name: str) -> None:
        if name in self.cluster.nodes:
            self.cluster.remove_node(name)

    @rule(which=st.integers(0, 9), admitted=st.booleans())
    def kueue(self, which: int, admitted: bool) -> None:
        name = self._pick(list(self.cluster.children), which)
        if name is not None and self.cluster.queued:
            (self.cluster.admit if admitted else self.cluster.evict)(name)

    @rule(which=st.integers(0, 9), step=st.integers(0, 100))
    def progress(self, which: int, step: int) -> None:
        child = self._pick(list(self.cluster.children.values()), which)
        if child is not None:
            self.cluster.report(child.stage, child.attempt, step)

    @rule(suspend=st.booleans())
    def user_suspends(self, suspend: bool) -> None:
        self.cluster.policy(suspend=suspend)

    @rule()
    def user_retries(self) -> None:
        self.retries += 1
        self.cluster.policy(retry=self.retries)

    @rule(seconds=st.sampled_from([1, 4, 31, 120, 700, 8_000, 100_000]))
    def time_passes(self, seconds: int) -> None:
        self.cluster.now += seconds

    @rule()
    def timer_rings(self) -> None:
        cluster = self.cluster
        if cluster.wake is not None:
            cluster.now = max(cluster.now, cluster.wake)
            cluster.reconcile()

    @invariant()
    def design_holds(self) -> None:
        cluster = getattr(self, "cluster", None)
        if cluster is None:
            return
        cluster.check()
        for old, new in zip(cluster.history, cluster.history[1:], strict=False):
            if new.retry > old.retry:
                continue
            assert new.phase in STEPS[old.phase], (old.phase, new.phase)
            for stage in new.stages:
                before = old.stage(stage.name).state
                assert stage.state in STEPS[before], (stage.name, before, stage.state)
        del cluster.history[:-1]

    def teardown(self) -> None:
        """When nothing goes wrong any more the job ends, and nothing of it is left."""
        cluster = getattr(self, "cluster", None)
        if cluster is None:
            return
        for name in ("n1", "n2"):
            cluster.set_node(name, True)
        for _ in range(80):
            cluster.cooperate()
            self.design_holds()
        phase = cluster.status.phase
        assert phase.terminal or phase is State.SUSPENDED, cluster.status
        assert (phase is State.SUSPENDED) <= cluster.job.spec.run_policy.suspend
        assert not cluster.children
        assert not cluster.config_maps
        assert not cluster.pods
        assert not cluster.reconcile().changed


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)

"""Any sequence of events: pods, nodes, queues, users, other versions, and operators that die in
the middle, take over with old caches, or hear nothing.

The simulated cluster checks at every step that no two attempts of a stage live at once, that no
child is deleted which trains and is heard, that no budget pays for what did not happen, and that
words of other versions stay; the machine, that no terminal state is left.
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from florence_operator.api.failure import Cause
from florence_operator.api.status import JobStatus, StageStatus, State
from florence_operator.api.v1alpha1 import FlorenceJob
from tests.operator.simulated_operator import CACHED, Cluster, job_document

EVICTIONS = st.sampled_from(
    [
        *("Preempted", "PodsReadyTimeout", "AdmissionCheck", "ClusterQueueStopped"),
        *("NodeFailures", "Deactivated", "DeactivatedDueToRequeuingLimitExceeded"),
        *("MaximumExecutionTimeExceeded", "OfTheNextKueue"),
    ]
)
EXIT_CODES = st.sampled_from([0, 1, 2, 75, 137, 143])
STEPS = {
    State.PENDING: set(State),
    State.QUEUED: set(State),
    State.STARTING: set(State),
    State.RUNNING: set(State),
    State.STALLED: set(State),
    State.RECOVERING: set(State),
    State.SUSPENDED: set(State) - {State.SUCCEEDED, State.STALLED},
    State.SUCCEEDED: {State.SUCCEEDED},
    State.FAILED: {State.FAILED},
}


def states(status: JobStatus) -> set[State]:
    return {status.phase, *(stage.state for stage in status.stages)}


class Machine(RuleBasedStateMachine):
    served: tuple[str, ...] = ("PyTorchJob",)

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
        job = FlorenceJob.model_validate(job_document(**policy))
        self.cluster = Cluster(job, served=self.served)
        self.deleted_by_users: set[str] = set()
        self.retries = 0
        self.before = self.cluster.snapshot()
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
            if not self.cluster.reconcile().changed or "job" in self.cluster.shown:
                return
            self.cluster.check()
        raise AssertionError("the operator changes the status again and again")

    @rule(effects=st.integers(0, 6))
    def crash(self, effects: int) -> None:
        self.cluster.reconcile(crash=effects)

    @rule()
    def remember(self) -> None:
        self.before = self.cluster.snapshot()

    @rule(kinds=st.sets(st.sampled_from(CACHED)))
    def another_leader_with_old_caches(self, kinds: set[str]) -> None:
        self.cluster.take_over({kind: self.before[kind] for kind in kinds})
        self.cluster.reconcile()
        self.cluster.check()

    @rule(kind=st.sampled_from(CACHED))
    def a_cache_follows_no_more(self, kind: str) -> None:
        # This leader writes the job itself, and takes what the answers say.
        if kind != "job":
            self.cluster.lag(kind)

    @rule()
    def the_caches_catch_up(self) -> None:
        self.cluster.catch_up()

    @rule(kind=st.sampled_from(["PyTorchJob", "TrainJob"]))
    def another_leader_has_not_found_a_crd_yet(self, kind: str) -> None:
        cluster = self.cluster
        recorded = {a.child for stage in cluster.status.stages for a in stage.attempts}
        if len(self.served) > 1 and recorded >= set(cluster.children):
            cluster.restart()
            cluster.unseen = frozenset({kind})
            cluster.reconcile()
            cluster.check()

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
            self._all_report(seconds)
            cluster.check()
            cluster.now += seconds

    def _all_report(self, step: int) -> None:
        for child in self.cluster.children.values():
            pods = self.cluster.pods_of(child)
            if any(pod.index == 0 and pod.phase == "Running" for pod in pods):
                self.cluster.report(child.stage, child.attempt, int(self.cluster.now) % 97 + step)

    @rule(seconds=st.sampled_from([20, 50, 110]))
    def time_passes_and_all_are_heard(self, seconds: int) -> None:
        for _ in range(5):
            self.cluster.now += seconds
            self._all_report(0)
            self.cluster.reconcile()
            self.cluster.check()

    @rule(seconds=st.sampled_from([20, 110]))
    def all_are_heard_and_none_moves(self, seconds: int) -> None:
        for _ in range(8):
            self.cluster.now += seconds
            for stage, attempt in list(self.cluster.reports):
                self.cluster.report(stage, attempt, 50)
            self.cluster.reconcile()
            self.cluster.check()

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
            self.cluster.harm(pod.stage, pod.attempt)
            self.cluster.delete_pod(pod)

    @rule(which=st.integers(0, 9))
    def pod_cannot_be_killed(self, which: int) -> None:
        pod = self._pick(list(self.cluster.pods.values()), which)
        if pod is not None:
            self.cluster.stuck.add(pod.uid)

    @rule(which=st.integers(0, 9))
    def child_deleted(self, which: int) -> None:
        name = self._pick(list(self.cluster.children), which)
        if name is not None:
            child = self.cluster.children[name]
            self.cluster.harm(child.stage, child.attempt)
            self.cluster.delete_child(name)
            self.deleted_by_users.add(name)

    @rule(which=st.integers(0, 9))
    def child_deleted_and_its_pods_left(self, which: int) -> None:
        name = self._pick(list(self.cluster.children), which)
        if name is not None:
            self.cluster.orphan_child(name)
            self.deleted_by_users.add(name)

    @rule(which=st.integers(0, 9), idle=st.booleans())
    def another_version_writes(self, which: int, idle: bool) -> None:
        """A word that this one does not know: why an attempt ended, or where a stage stands."""
        stage = self._pick(list(self.cluster.status.stages), which)
        if stage is None or stage.state.terminal:
            return
        ended = [attempt for attempt in stage.attempts if attempt.completion_time]
        if idle and len(ended) == len(stage.attempts):
            stage = stage.model_copy(update={"state": State("OfTheNextVersion")})
        elif ended and ended[-1].cause:
            odd = ended[-1].model_copy(update={"cause": Cause("OfTheNextVersion")})
            attempts = [odd if a.number == odd.number else a for a in stage.attempts]
            stage = stage.model_copy(update={"attempts": tuple(attempts)})
        self._put(stage)

    def _put(self, stage: StageStatus, **fields: Any) -> None:
        status = self.cluster.status
        stages = tuple(stage if each.name == stage.name else each for each in status.stages)
        changed = status.model_copy(update={"stages": stages, **fields})
        self.cluster.job = self.cluster.job.model_copy(update={"status": changed})

    @rule()
    def that_version_is_back(self) -> None:
        """It brings its words to an end."""
        for stage in self.cluster.status.stages:
            if not stage.state.known and all(attempt.completion_time for attempt in stage.attempts):
                after = State.RECOVERING if stage.attempts else State.PENDING
                self._put(stage.model_copy(update={"state": after}), phase=State.PENDING)

    @rule(name=st.sampled_from(["n1", "n2"]), ready=st.booleans())
    def node_changes(self, name: str, ready: bool) -> None:
        self.cluster.set_node(name, ready)

    @rule(name=st.sampled_from(["n1", "n2"]))
    def node_vanishes(self, name: str) -> None:
        if name in self.cluster.nodes:
            self.cluster.remove_node(name)

    @rule(which=st.integers(0, 9), admitted=st.booleans(), reason=EVICTIONS)
    def kueue(self, which: int, admitted: bool, reason: str) -> None:
        name = self._pick(list(self.cluster.children), which)
        if name is None or not self.cluster.queued:
            return
        place = self.cluster.queue.get(name)
        if not admitted:
            self.cluster.evict(name, reason)
        elif place is None or place.active is not False:
            self.cluster.admit(name)

    @rule(which=st.integers(0, 9))
    def administrator_activates(self, which: int) -> None:
        name = self._pick(list(self.cluster.queue), which)
        if name is not None and self.cluster.children[name].suspended:
            self.cluster.activate(name)

    @rule(which=st.integers(0, 9), step=st.integers(0, 100))
    def progress(self, which: int, step: int) -> None:
        child = self._pick(list(self.cluster.children.values()), which)
        if child is not None:
            self.cluster.report(child.stage, child.attempt, step)

    @rule(suspend=st.booleans())
    def user_suspends(self, suspend: bool) -> None:
        self.cluster.policy(suspend=suspend)

    @rule(backend=st.sampled_from(["auto", "PyTorchJob", "TrainJob"]))
    def user_chooses_a_backend(self, backend: str) -> None:
        if backend in ("auto", *self.served):
            self.cluster.policy(backend=backend)

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
            if not all(s.known for s in states(old) | states(new)):
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
        cluster.catch_up()
        cluster.stuck.clear()
        self.that_version_is_back()
        for name in ("n1", "n2"):
            cluster.set_node(name, True)
        for _ in range(80):
            cluster.cooperate()
            self.design_holds()
        phase = cluster.status.phase
        assert phase.terminal or phase is State.SUSPENDED, cluster.status
        assert (phase is State.SUSPENDED) <= cluster.job.spec.run_policy.suspend
        assert not cluster.children
        assert not cluster.pods
        assert not cluster.services
        assert not cluster.jobsets
        assert cluster.runtimes <= self.deleted_by_users
        assert not cluster.reconcile().changed


class TrainJobMachine(Machine):
    served = ("TrainJob",)


class BothKindsMachine(Machine):
    """Where users go to and fro between both, and leaders find one kind after the other."""

    served = ("PyTorchJob", "TrainJob")


TestMachine = Machine.TestCase
TestTrainJobMachine = TrainJobMachine.TestCase
TestBothKindsMachine = BothKindsMachine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestTrainJobMachine.settings = TestBothKindsMachine.settings = TestMachine.settings

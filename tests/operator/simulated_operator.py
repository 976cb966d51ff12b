"""The operator in a cluster in memory: caches that lag, leaders that die, and what must hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from florence_operator.api.failure import Budget, Cause, budget_of
from florence_operator.api.history import KEPT_ATTEMPTS
from florence_operator.api.status import Attempt, JobStatus, State
from florence_operator.api.times import unix
from florence_operator.backends.choice import Installed
from florence_operator.observe.observation import Observation, Question
from florence_operator.reconcile.decide import decide
from florence_operator.reconcile.decision import Decision, Deletion
from tests.operator.simulated_cluster import SETTINGS, World, job_document

__all__ = ["SETTINGS", "Cluster", "job_document"]

CACHED = ("job", "children", "pods", "nodes", "queue")
_JOB = Question("FlorenceJob")
_KINDS = {"Child": "children", "Pod": "pods", "Workload": "queue"}


@dataclass
class Cluster(World):
    """A world, and the operator that leads in it."""

    shown: dict[str, Any] = field(default_factory=dict)
    """What the caches hold that do not follow."""
    known: bool = False
    """Whether this leader has read the job itself, or written its status."""
    unseen: frozenset[str] = frozenset()
    """Kinds of children that this leader does not follow yet."""
    hears_since: float = 0.0
    wake: float | None = None
    history: list[JobStatus] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)

    def snapshot(self) -> dict[str, Any]:
        """What all caches would hold now."""
        return {kind: _copy(getattr(self, kind)) for kind in CACHED}

    def lag(self, kind: str, shown: Any = None) -> None:
        """From now on a cache does not follow; it holds what is there now, or something older."""
        self.shown[kind] = _copy(getattr(self, kind)) if shown is None else _copy(shown)

    def catch_up(self) -> None:
        self.shown.clear()
        self.unseen = frozenset()

    def _cached(self, kind: str) -> Any:
        return self.shown.get(kind, getattr(self, kind))

    def observe(self, answered: frozenset[Question] = frozenset()) -> Observation:
        """What the caches show, and what the API server answered."""
        gone = [q.name for q in answered if q.kind == "Node" and q.name not in self.nodes]
        return Observation(
            job=self._cached("job"),
            now=self.now,
            children={
                name: child
                for name, child in self._cached("children").items()
                if child.kind not in self.unseen
            },
            installed=Installed(served=tuple(k for k in self.served if k not in self.unseen)),
            pods=list(self._cached("pods").values()),
            nodes={**self._cached("nodes"), **dict.fromkeys(gone)},
            queue=dict(self._cached("queue")),
            progress=dict(self.reports),
            hears_since=self.hears_since,
            answered=answered,
        )

    def _ask(self, question: Question) -> None:
        """What the API server has goes into the cache; what it has not stays there."""
        self.questions.append(question)
        if question.kind == "Node":
            if "nodes" in self.shown and question.name in self.nodes:
                self.shown["nodes"][question.name] = self.nodes[question.name]
        elif question.kind in _KINDS and (kind := _KINDS[question.kind]) in self.shown:
            self.shown[kind] |= getattr(self, kind)

    def decide(self) -> Decision | None:
        """What the operator decides; None where its cache of the job was too old for that."""
        answered = frozenset({_JOB} if self.known else ())
        while (decision := decide(self.observe(answered), SETTINGS, ca="CA")).questions:
            for question in decision.questions:
                self._ask(question)
            answered |= decision.questions
            if _JOB in decision.questions and self._cached("job") is not self.job:
                self.shown["job"] = self.job
                return None
            self.known |= _JOB in decision.questions
        return decision

    def reconcile(self, crash: int | None = None) -> Decision:
        """Decide and act; with ``crash`` only that many effects happen before the operator dies."""
        decision = self.decide() or self.decide()
        assert decision is not None
        well = {child.uid for child in self.well()} if self._goes_on() else set()
        effects: list[Any] = [d for start in decision.starts for d in start.documents]
        effects += [decision.status] if decision.changed else []
        effects += list(decision.delete)
        for effect in effects if crash is None else effects[:crash]:
            if isinstance(effect, JobStatus) and self._cached("job") is not self.job:
                break  # a conflict: somebody else was faster
            if isinstance(effect, dict) and effect["metadata"]["name"] in self.children:
                # The API server refuses it, so that it is asked for what there is.
                self._ask(Question("Child"))
                break
            self._apply(effect, well)
        self.wake = None if decision.requeue_after is None else self.now + decision.requeue_after
        if crash is not None:
            self.restart()
        return decision

    def restart(self) -> None:
        """Another process leads; its caches are filled anew."""
        self.take_over({})

    def take_over(self, shown: dict[str, Any]) -> None:
        """Another replica leads, some of whose caches are behind."""
        self.reports.clear()
        self.known = False
        self.hears_since = self.now
        self.shown = {kind: _copy(value) for kind, value in shown.items()}

    def _goes_on(self) -> bool:
        """Whether neither user nor deadline nor an ending that was decided stops anything."""
        policy = self.job.spec.run_policy
        attempts = [a for stage in self.status.stages for a in stage.attempts[-1:]]
        stopping = any(attempt.stopping for attempt in attempts)
        return not (policy.suspend or policy.deadline or stopping or self.status.phase.terminal)

    def _apply(self, effect: Any, well: set[str]) -> None:
        if isinstance(effect, JobStatus):
            self._write(effect)
        elif isinstance(effect, dict):
            self.create(effect)
            name = effect["metadata"]["name"]
            if "children" in self.shown and name in self.children:
                self.shown["children"][name] = self.children[name]
        else:
            self._delete(effect, well)

    def _write(self, status: JobStatus) -> None:
        # Through the wire, as the API server keeps it.
        known = JobStatus.model_validate(status.stored())
        assert known == JobStatus.model_validate(status.wire()) == status
        self._check_charges(known)
        self._check_words(known)
        self._check_goodput(known)
        self.job = self.job.model_copy(update={"status": known})
        if "job" in self.shown:
            self.shown["job"] = self.job
        self.known = True
        self.history.append(known)

    def _delete(self, deletion: Deletion, well: set[str]) -> None:
        if deletion.kind in ("PyTorchJob", "TrainJob"):
            child = self.children.get(deletion.name)
            if child is not None and child.uid == deletion.uid:
                assert child.uid not in well, f"{child.name} trains and is heard"
                self.delete_child(deletion.name)
                self.runtimes.discard(deletion.name)
        elif deletion.kind == "JobSet":
            if self.jobsets.get(deletion.name) == "":
                self.delete_jobset(deletion.name)
        elif deletion.kind == "Service":
            if self.services.get(deletion.name) == "":
                del self.services[deletion.name]
        elif deletion.kind == "Pod" and (pod := self.pods.get(deletion.uid or "")) is not None:
            assert not pod.owner
            self.delete_pod(pod)

    def cooperate(self) -> None:
        """One round in which everything goes well."""
        self.training_operator()
        self.kubelets()
        for name, child in list(self.children.items()):
            if child.suspended and self.queue.get(name) is not None:
                self.activate(name)
                self.reconcile()
        for name, child in list(self.children.items()):
            if child.suspended:
                self.admit(name)
        for pod in list(self.pods.values()):
            orphaned = not pod.owner or self.jobsets.get(pod.train_job) == ""
            if pod.phase == "Running" and not pod.deleting and not orphaned:
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
            first = record.dropped.number + 1 if record.dropped else 1
            assert numbers == list(range(first, first + len(numbers)))
            assert len(numbers) <= KEPT_ATTEMPTS + 1
            assert all(attempt.completion_time for attempt in record.attempts[:-1])
            running = {
                pod.attempt
                for pod in self.pods.values()
                if pod.stage == stage.name and pod.phase == "Running" and self.answers(pod)
            }
            assert len(running) <= 1, f"attempts {running} of {stage.name} run at once"
            self._check_budgets(stage.name)

    def _check_charges(self, new: JobStatus) -> None:
        """No budget pays for what did not happen."""
        asked_for = self.job.spec.run_policy.silence_timeout is not None
        for stage, attempt in _just_ended(self.status, new):
            if attempt.cause is Cause.NOT_HEARD and asked_for:
                continue
            if attempt.cause and budget_of(attempt.cause) in (
                Budget.INFRASTRUCTURE,
                Budget.APPLICATION,
            ):
                assert (stage, attempt.number) in self.harmed, (stage, attempt)

    def _check_goodput(self, new: JobStatus) -> None:
        """Every second of every stage has one name, and no second is lost once it had one."""
        total = 0
        for stage in new.stages:
            spent, before = stage.goodput, self.status.stage(stage.name).goodput
            if not stage.attempts:
                assert spent is None
                continue
            if not stage.state.known and stage.attempts[-1].completion_time:
                assert spent == before  # another version's
                total += spent.total if spent else 0
                continue
            assert spent is not None
            begun = unix((stage.dropped or stage.attempts[0]).start_time)
            until = unix(spent.until)
            assert begun is not None
            assert until is not None
            assert spent.total == until - begun
            assert until <= self.now
            assert stage.state.terminal or until == int(self.now)
            total += spent.total
            if before is not None:
                # A part may shrink: one that stalls may yet get further, or end well.
                assert spent.total >= before.total
        if total:
            assert new.goodput is not None
            assert new.goodput.total == total

    def _check_words(self, new: JobStatus) -> None:
        """A word of another version stays where it is."""
        for stage in self.status.stages:
            after = new.stage(stage.name)
            causes = {a.number: a.cause for a in stage.attempts if a.completion_time}
            kept = {a.number: a.cause for a in after.attempts if a.number in causes}
            assert kept.items() <= causes.items()
            assert len(kept) >= min(len(causes), KEPT_ATTEMPTS - 1)
            if not stage.state.known and len(causes) == len(stage.attempts):
                assert after == stage

    def _check_budgets(self, stage: str) -> None:
        record, retries = self.status.stage(stage), self.job.spec.run_policy.retries
        spent = dict.fromkeys(Budget, 0)
        for attempt in record.attempts:
            if (
                attempt.cause
                and attempt.cause.known
                and attempt.number >= record.first_counted_attempt
            ):
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
        if final and record.state.known:
            assert record.state is State.FAILED


def _just_ended(old: JobStatus, new: JobStatus) -> Iterable[tuple[str, Attempt]]:
    for stage in new.stages:
        ended = {a.number for a in old.stage(stage.name).attempts if a.completion_time}
        yield from (
            (stage.name, a) for a in stage.attempts if a.completion_time and a.number not in ended
        )


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, dict | set) else value

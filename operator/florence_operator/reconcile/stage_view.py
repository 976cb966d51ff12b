"""One stage of a job as the operator sees it, and how its record is changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from florence.config.progress import PhaseSeconds, StageProgress
from florence_operator.api.attempt_pods import Pod
from florence_operator.api.duration import seconds
from florence_operator.api.history import shortened
from florence_operator.api.retrying import sequel
from florence_operator.api.run_policy import RunPolicy
from florence_operator.api.status import Attempt, StageStatus, State
from florence_operator.api.termination import Termination, last_words
from florence_operator.api.times import timestamp, unix
from florence_operator.api.v1alpha1 import FlorenceJob, Stage
from florence_operator.backends.choice import chosen
from florence_operator.backends.protocol import Backend, Child
from florence_operator.backends.registry import BACKENDS, made
from florence_operator.observe.observation import Observation, Question
from florence_operator.observe.queue import QueuePlace
from florence_operator.reconcile.decision import Work
from florence_operator.reconcile.failures import Ending, away_from, stuck_from
from florence_operator.settings import OperatorConfiguration


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A stage, its record, and what was observed of it."""

    stage: Stage
    seen: Observation
    settings: OperatorConfiguration
    ca: str = ""
    overdue: bool = False
    """Whether the job's deadline has passed."""
    checked: bool = False
    """Whether the spec has been found fit to run at this look."""
    work: Work = field(default_factory=lambda: Work(0.0))
    """Collects what has to be asked of the API server before this look can be finished."""

    @property
    def backend(self) -> Backend:
        """Of which kind the stage's next child is."""
        return BACKENDS[chosen(self.policy, self.settings.backend, self.seen.installed)]

    @property
    def job(self) -> FlorenceJob:
        """The job of the stage."""
        return self.seen.job

    @property
    def policy(self) -> RunPolicy:
        """How the job is run."""
        return self.seen.job.spec.run_policy

    @property
    def now(self) -> float:
        """Unix seconds of the observation."""
        return self.seen.now

    @property
    def node_grace(self) -> float:
        """Seconds that a node may be not ready."""
        return seconds(self.settings.failures.node_grace)

    def sure(self, *questions: Question) -> bool:
        """Whether the API server has been asked all of it; what it has not, it is asked next."""
        return self.work.ask(self.seen, *questions)

    def pods(self, attempt: int | None = None) -> list[Pod]:
        """The stage's pods, or those of one attempt, by index: whatever may hold GPUs."""
        pods = [
            pod
            for pod in self.seen.pods
            if pod.stage == self.stage.name and attempt in (None, pod.attempt)
        ]
        return sorted(pods, key=lambda pod: (pod.attempt, pod.index))

    def members(self, attempt: Attempt) -> list[Pod]:
        """The pods of an attempt whose word counts: those that its child made.

        A pod that belongs to nobody is an orphan, or somebody gave it the labels by hand.
        """
        child, pods = self.child(attempt), self.pods(attempt.number)
        return [pod for pod in pods if (made(child, pod) if child is not None else pod.owner)]

    def child(self, attempt: Attempt) -> Child | None:
        """The child of an attempt."""
        child = self.seen.children.get(attempt.child or "")
        known = attempt.job_ref.uid if attempt.job_ref else None
        # Somebody may have deleted it, and made another of its name.
        return child if child is None or known in (None, child.uid) else None

    def follows(self, attempt: Attempt) -> bool:
        """Whether the operator sees the children of the attempt's kind.

        A replica that has not found their CRD yet must not take their absence for a fact.
        """
        kind = attempt.job_ref.kind if attempt.job_ref else None
        return kind is None or kind in self.seen.installed.served

    def place(self, child: Child) -> QueuePlace:
        """What Kueue says about a child."""
        return self.seen.queue.get(child.name, QueuePlace())

    def away_from(self, pod: Pod) -> float:
        """From when on the pod's node counts as lost; infinity for never.

        It is read anew before that is believed, and where the cache does not have it.
        """
        nodes, node = self.seen.nodes, pod.node
        moment = away_from(pod, nodes, self.node_grace)
        if nodes is None or node is None or pod.over:
            return moment
        doubtful = moment <= self.now or node not in nodes
        return math.inf if doubtful and not self.sure(Question("Node", node)) else moment

    def lost_from(self, pod: Pod) -> float:
        """From when on the pod counts as lost, with its node or alone; infinity for never."""
        return min(stuck_from(pod, self.node_grace), self.away_from(pod))

    def holding(self, pods: Sequence[Pod]) -> list[Pod]:
        """The pods that may still run: not over, and not lost."""
        return [pod for pod in pods if not pod.over and self.lost_from(pod) > self.now]


def changed(status: StageStatus, **fields: Any) -> StageStatus:
    """The record of a stage with other fields."""
    return status.model_copy(update=fields)


def with_attempt(status: StageStatus, **fields: Any) -> StageStatus:
    """The record of a stage with other fields of its last attempt."""
    last = status.attempts[-1].model_copy(update=fields)
    return changed(status, attempts=(*status.attempts[:-1], last))


def live(status: StageStatus) -> Attempt | None:
    """The attempt that has not ended, if there is one."""
    if status.attempts and status.attempts[-1].completion_time is None:
        return status.attempts[-1]
    return None


def take_progress(view: View, status: StageStatus) -> StageStatus:
    """The record with what the pods told: their reports, then their last words."""
    attempt = status.attempts[-1]
    report = view.seen.progress.get((view.stage.name, attempt.number))
    if report is not None:
        status = _told(status, report.progress, report.received)
    first = next((pod for pod in view.members(attempt) if pod.index == 0), None)
    if first is not None and first.terminated is not None:
        words = last_words(first.terminated.message)
        status = _last_words(status, words, first.terminated.finished or view.now)
    return status


def _told(status: StageStatus, progress: StageProgress, received: float) -> StageStatus:
    attempt, known = status.attempts[-1], status.progress
    restored = progress.restored_step
    fields: dict[str, Any] = {"step": progress.step, "last_progress_time": timestamp(received)}
    if restored is not None:
        fields["restored_step"] = restored
    if progress.seconds is not None:
        fields["seconds"] = _rounded(progress.seconds)
        progress = progress.model_copy(update={"seconds": None})
    if _newer(progress.checkpoint_step, known, restored):
        fields["last_checkpoint_time"] = timestamp(received)
    if progress == known and attempt.last_progress_time is not None:
        return status
    if known is not None and progress.checkpoint is None:
        progress = progress.model_copy(
            update={"checkpoint": known.checkpoint, "checkpoint_step": known.checkpoint_step}
        )
    return changed(with_attempt(status, **fields), progress=progress)


def _rounded(seconds: PhaseSeconds) -> PhaseSeconds:
    """To a tenth: it is written again and again."""
    return PhaseSeconds(**{name: round(value, 1) for name, value in seconds})


def _newer(step: int | None, known: StageProgress | None, restored: int | None) -> bool:
    """Whether a commit was made by this attempt and not told of before."""
    if step is None or (restored is not None and step <= restored):
        return False
    return known is None or step != known.checkpoint_step


def _last_words(status: StageStatus, words: Termination, finished: float) -> StageStatus:
    fields: dict[str, Any] = {}
    if words.restored_step is not None:
        fields["restored_step"] = words.restored_step
    if words.step is not None:
        fields["step"] = words.step
    counted = status.attempts[-1].seconds
    if counted is not None and words.step is not None and words.checkpoint_step == words.step:
        # The last report may be of before its last commit.
        fields["seconds"] = counted.model_copy(update={"kept": counted.train})
    if words.logs is not None:
        fields["logs"] = words.logs
    progress = status.progress
    if words.checkpoint is not None and _newer(
        words.checkpoint_step, progress, words.restored_step
    ):
        fields["last_checkpoint_time"] = timestamp(finished)
        progress = (progress or StageProgress(step=words.step or 0)).model_copy(
            update={"checkpoint": words.checkpoint, "checkpoint_step": words.checkpoint_step}
        )
    return changed(with_attempt(status, **fields), progress=progress)


def gpu_seconds(view: View, attempt: Attempt) -> tuple[float, float]:
    """GPU seconds that an attempt used, and those of them that were for nothing."""
    gpus = view.stage.resources.workers * view.stage.resources.gpus_per_worker
    begun = unix(attempt.pods_ready_time)
    if begun is None or not gpus:
        return 0.0, 0.0
    end = unix(attempt.completion_time) or view.now
    kept = max(begun, unix(attempt.last_checkpoint_time) or begun)
    lost = max(0.0, end - kept) * gpus if attempt.cause is not None else 0.0
    return max(0.0, end - begun) * gpus, lost


def count_gpus(view: View, status: StageStatus) -> StageStatus:
    """The record with the last attempt's GPU seconds."""
    used, lost = gpu_seconds(view, status.attempts[-1])
    return with_attempt(status, gpu_seconds=used, lost_gpu_seconds=lost)


def finish(view: View, status: StageStatus, ending: Ending) -> StageStatus:
    """The record after its last attempt ended without success: what follows is part of it."""
    attempt = status.attempts[-1]
    fields: dict[str, Any] = {
        "completion_time": timestamp(view.now),
        "cause": ending.cause,
        "message": ending.message,
        "pod": ending.pod or attempt.pod,
        "node": ending.node or attempt.node,
        "strike": ending.strike.value if ending.strike else None,
        "exit_code": ending.exit_code,
        "last_lines": ending.last_lines,
        "logs": ending.logs or attempt.logs,
    }
    status = changed(status, conditions=())
    if attempt.admission_time is None and attempt.start_time is not None:
        fields["queued_seconds"] = max(0.0, view.now - (unix(attempt.start_time) or view.now))
    status = count_gpus(view, with_attempt(status, **fields))
    status = shortened(status)
    after = sequel(status, view.policy.retries, view.settings.failures)
    story = f"{told(status.attempts[-1])}; {after.message}"
    if after.delay is None:
        return changed(
            status, state=State.FAILED, reason=after.reason, message=story, next_attempt_time=None
        )
    following = timestamp(math.ceil(view.now + after.delay)) if after.delay else None
    return changed(
        status,
        state=State.RECOVERING,
        reason=after.reason,
        message=story,
        next_attempt_time=following,
    )


def told(attempt: Attempt) -> str:
    """How an attempt ended, in one phrase."""
    where = f" in {attempt.pod}" if attempt.pod else ""
    where += f" on {attempt.node}" if attempt.node else ""
    code = f", exit code {attempt.exit_code}" if attempt.exit_code is not None else ""
    return f"attempt {attempt.number} failed ({attempt.cause}{where}{code}): {attempt.message}"

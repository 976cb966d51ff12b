"""How a job is run: pauses, retries, time limits, queues, gangs, and by which kind of child."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Literal, Self

from pydantic import model_validator

from florence.config.base import Settings, setting
from florence_operator.api.duration import Duration
from florence_operator.api.refusals import refusal

MOST_RETRIES = 1_000
"""Every attempt has a place in the status, which has room for a megabyte or so."""
_LABEL = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)


class Gang(StrEnum):
    """Who sees to it that the pods of an attempt start all together or not at all."""

    NONE = "none"
    KUEUE = "kueue"
    VOLCANO = "volcano"
    SCHEDULER_PLUGINS = "scheduler-plugins"
    COSCHEDULING = "coscheduling"

    @property
    def has_pod_groups(self) -> bool:
        """Whether the pods are held together by a PodGroup."""
        return self in (Gang.VOLCANO, Gang.SCHEDULER_PLUGINS, Gang.COSCHEDULING)


class Topology(Settings):
    """How close together the pods of an attempt have to be: exactly one of both.

    For Kueue it is the label of a level of its Topology, such as ``cloud.example.com/rack``; for
    Volcano the number of the highest tier.
    """

    required: str | None = setting(
        None, description="all pods in one domain of this level, or none", max_length=317
    )
    preferred: str | None = setting(
        None, description="in one domain of this level where that is possible", max_length=317
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.required is None) == (self.preferred is None):
            raise ValueError("a topology needs exactly one of required and preferred")
        return self

    @property
    def level(self) -> str:
        """The level, whether it is required or preferred."""
        return self.required or self.preferred or ""


class Retries(Settings):
    """How often a stage is tried again, by cause."""

    infrastructure: int = setting(
        20,
        description="attempts lost to nodes, evictions, network or storage that are repeated",
        ge=0,
        le=MOST_RETRIES,
    )
    application: int = setting(
        2, description="attempts lost to the program that are repeated", ge=0, le=MOST_RETRIES
    )


class RunPolicy(Settings):
    """How the job is run: pauses, retries and time limits."""

    suspend: bool = setting(False, description="checkpoint, free the pods and wait")
    retries: Retries = setting(Retries(), description="budgets of attempts by cause")
    deadline: Duration | None = setting(
        None,
        description="longest time from start to end, time in queues excluded, such as 12d or 90m",
    )
    start_deadline: Duration | None = setting(
        None, description="longest time until all pods of an attempt run, queueing excluded"
    )
    stall_timeout: Duration = setting(
        "10m",
        description="longest time that a running attempt may report and get no further before it "
        "is replaced",
    )
    silence_timeout: Duration | None = setting(
        None,
        description="longest time that a running attempt may report nothing before it is "
        "replaced. Default: it is never replaced for that, since what is not heard may train well",
    )
    ttl_after_finished: Duration | None = setting(
        None, description="the job is deleted this long after it ended"
    )
    ttl_after_failed: Duration | None = setting(
        None, description="the same for a job that failed; default: as ttlAfterFinished"
    )
    keep_failed_pods: Duration | None = setting(
        None,
        description="how long the pods of an attempt that failed are kept, without their GPUs, for "
        "whoever wants to look at them. Default: not at all",
    )
    grace_period: Duration = setting(
        "60s", description="time from asking a pod to stop to killing it: for the last checkpoint"
    )
    backend: Literal["auto", "PyTorchJob", "TrainJob"] = setting(
        "auto",
        description="kind of object that runs the pods of the next attempts; auto takes what is "
        "installed, PyTorchJob first where Kueue still takes it or the job names no queue",
    )
    gang: Gang | None = setting(
        None,
        description="who sees to it that an attempt's pods start all together or not at all: "
        "none, kueue, volcano, scheduler-plugins (its own scheduler), or coscheduling (as a plugin "
        "of the cluster's scheduler). Default: kueue with a queue, none without",
    )
    topology: Topology | None = setting(
        None, description="how close together the pods have to be, for Kueue or Volcano"
    )
    queue: str | None = setting(None, description="Kueue LocalQueue that admits the job's pods")
    priority_class: str | None = setting(
        None, description="Kueue WorkloadPriorityClass of the job in its queue"
    )
    retry: int = setting(
        0,
        description="raise it to run the failed stages of a job again, with fresh budgets",
        ge=0,
    )

    @property
    def gang_scheduler(self) -> Gang:
        """Who starts the pods together, where the job does not say too."""
        return self.gang or (Gang.KUEUE if self.queue else Gang.NONE)

    @property
    def backend_needed(self) -> str | None:
        """The only backend that can do what the policy asks for; None when any can."""
        return "TrainJob" if self.gang is Gang.VOLCANO and self.topology is not None else None

    @model_validator(mode="after")
    def _somebody_can_do_it(self) -> Self:
        gang, topology = self.gang_scheduler, self.topology
        if gang is Gang.KUEUE and self.queue is None:
            raise refusal("kueue needs a queue: name one in queue, or another gang", "gang")
        if topology is not None:
            if gang not in (Gang.KUEUE, Gang.VOLCANO):
                raise refusal("needs gang kueue, with a queue, or gang volcano", "topology")
            if gang is Gang.VOLCANO and not topology.level.isdecimal():
                raise refusal("Volcano's is the number of the highest tier, such as 1", "topology")
            if gang is Gang.KUEUE and not _LABEL.fullmatch(topology.level):
                raise refusal("Kueue's is a label of nodes that its Topology names", "topology")
        if self.backend == "PyTorchJob" and self.backend_needed:
            raise refusal("Volcano's needs backend TrainJob", "topology")
        return self

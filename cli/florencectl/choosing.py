"""Which jobs, and which stage, attempt and lines of a log, the user means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from florence.errors import ConfigurationError
from florencectl.cluster.connection import Place, is_configured
from florencectl.output import note

if TYPE_CHECKING:
    from florence_operator.api import JobStatus


def stage_and_attempt(
    job: str, status: JobStatus | None, stage: str | None, attempt: int | None
) -> tuple[str, int]:
    """The stage and attempt whose log is meant: those asked for, or else the last ones begun.

    Raises:
        ConfigurationError: there are none such; the message says which there are.
    """
    stages = status.stages if status else ()
    if stages:
        stages_meant(job, [s.name for s in stages], stage)
    begun = [s for s in stages if s.attempts and stage in (None, s.name)]
    if not begun:
        what = f"stage '{stage}'" if stage else "any stage"
        raise ConfigurationError(f"job '{job}' has not begun {what}")
    # Of stages side by side, the one whose newest attempt began last.
    last = max(begun, key=lambda s: s.attempts[-1].start_time or "")
    numbers = [a.number for a in last.attempts]
    if attempt is not None and attempt not in numbers:
        raise ConfigurationError(
            f"stage '{last.name}' has attempts {numbers[0]} to {numbers[-1]}, not {attempt}"
        )
    return last.name, attempt or numbers[-1]


def stages_meant(job: str, stages: Sequence[str], stage: str | None) -> Sequence[str]:
    """The stage that was asked for, or else all of them.

    Raises:
        ConfigurationError: there is none such; the message says which there are.
    """
    if stage is None:
        return stages
    if stage not in stages:
        raise ConfigurationError(f"job '{job}' has no stage '{stage}'; it has: {', '.join(stages)}")
    return [stage]


def of_rank(rank: int | None) -> Callable[[str], bool]:
    """Whether a line is of a rank; lines without one belong to the line above."""
    wanted = None if rank is None else f"[rank {rank}]"
    shows = True

    def belongs(line: str) -> bool:
        nonlocal shows
        if wanted and "[rank " in line:
            shows = wanted in line
        return shows

    return belongs


def refuse_on_cluster(options: Mapping[str, object]) -> None:
    """Refuse options of runs on this machine where a cluster is meant.

    Raises:
        ConfigurationError: one was given; names it.
    """
    for option, given in options.items():
        if given:
            raise ConfigurationError(f"{option} is for runs on this machine: add --local")


def refuse_on_machine(options: Mapping[str, object]) -> None:
    """Refuse options of jobs on a cluster where this machine's are meant.

    Raises:
        ConfigurationError: some were given; names them.
    """
    wrong = [option for option, given in options.items() if given]
    if wrong:
        raise ConfigurationError(f"{', '.join(wrong)}: only for jobs on a cluster")


def refuse_names_everywhere(names: Sequence[str] | None, everywhere: bool) -> None:
    """Refuse names of jobs where those of all namespaces are meant.

    Raises:
        ConfigurationError: both were given.
    """
    if everywhere and names:
        raise ConfigurationError("a name belongs to one namespace: leave out -A, or the names")


def is_local(asked: bool, place: Place) -> bool:
    """Whether this machine's jobs are meant; says so where the user did not.

    Raises:
        ConfigurationError: the user named a cluster as well.
    """
    if asked:
        if place.kubeconfig or place.context:
            raise ConfigurationError("--local excludes --context and --kubeconfig")
        return True
    if is_configured(place):
        return False
    note("no cluster configured (no kubeconfig): jobs of this machine")
    return True

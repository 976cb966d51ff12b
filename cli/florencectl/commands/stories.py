"""``florencectl describe`` and ``why``: what happened to a job, and why."""

from __future__ import annotations

import textwrap
import time
from typing import TYPE_CHECKING

from florencectl.choosing import is_local
from florencectl.cluster.connection import Place, on_cluster
from florencectl.options import Context, JobName, Kubeconfig, Local, Namespace
from florencectl.program import program_name

if TYPE_CHECKING:
    from florencectl.explain.snapshot import Snapshot

_WIDTH = 100


def describe(
    name: JobName,
    namespace: Namespace = None,
    local: Local = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Tell a job's story: stages, attempts, conditions, events, and what happens next."""
    from florencectl.explain.describe import describe as story
    from florencectl.explain.snapshot import take_snapshot

    place = Place(kubeconfig, context, namespace)
    if is_local(local, place):
        from florencectl.explain.local_why import why as reason_here

        print(story(_facts_here(name, namespace), program_name(), reason_here))
        return
    facts = on_cluster(place, lambda client, where: take_snapshot(client, where, name))
    print(story(facts, program_name()))


def why(
    name: JobName,
    namespace: Namespace = None,
    local: Local = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Say in one paragraph why a job waits, stalls, failed, or how it goes."""
    from florencectl.explain.snapshot import take_snapshot
    from florencectl.explain.why import why as reason

    place = Place(kubeconfig, context, namespace)
    if is_local(local, place):
        from florencectl.explain.local_why import why as reason_here

        text = reason_here(_facts_here(name, namespace), program_name())
    else:
        facts = on_cluster(place, lambda client, where: take_snapshot(client, where, name))
        text = reason(facts, program_name())
    print(textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False))


def _facts_here(name: str, namespace: str | None) -> Snapshot:
    """What is known of a job of this machine."""
    from florencectl.explain.snapshot import Snapshot
    from florencectl.local_jobs import find_job, records_here

    job = find_job(records_here(), namespace or "default", name)
    return Snapshot(job=job.wire(), now=time.time())

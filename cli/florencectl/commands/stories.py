"""``florencectl describe`` and ``why``: what happened to a job on a cluster, and why."""

from __future__ import annotations

import textwrap

from florencectl.cluster.connection import Place, on_cluster
from florencectl.options import Context, JobName, Kubeconfig, Namespace
from florencectl.program import program_name

_WIDTH = 100


def describe(
    name: JobName,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Tell a job's story: stages, attempts, conditions, events, and what happens next."""
    from florencectl.cluster.describe import describe as story
    from florencectl.cluster.facts import gather_facts

    place = Place(kubeconfig, context, namespace)
    facts = on_cluster(place, lambda client, where: gather_facts(client, where, name))
    print(story(facts, program_name()))


def why(
    name: JobName,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Say in one paragraph why a job waits, stalls, failed, or how it goes."""
    from florencectl.cluster.explain import why as reason
    from florencectl.cluster.facts import gather_facts

    place = Place(kubeconfig, context, namespace)
    facts = on_cluster(place, lambda client, where: gather_facts(client, where, name))
    text = reason(facts, program_name())
    print(textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False))

"""What the operator may do with the API server, and why: the source of its roles.

``python -m tools.rights`` writes manifests/base/rbac, the chart's rules and the table of
docs/operations.md from here. Each right is used by code; none is wider than that use.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Use:
    """Verbs that serve one purpose."""

    verbs: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """What may be done with objects of one kind."""

    group: str
    resource: str
    uses: tuple[Use, ...]
    names: tuple[str, ...] = ()
    """The only objects that are meant; nothing for all."""
    needed: str = ""
    """The setting without which the chart leaves the right out; see ``tools.rights``."""

    @property
    def verbs(self) -> tuple[str, ...]:
        """All verbs, in the order of their uses."""
        return tuple(verb for use in self.uses for verb in use.verbs)


def _right(group: str, resource: str, *uses: tuple[str, str], **more: str) -> Right:
    """``uses`` are verbs, separated by spaces, and what they are for."""
    return Right(
        group=group,
        resource=resource,
        uses=tuple(Use(tuple(verbs.split()), why) for verbs, why in uses),
        names=(more["name"],) if "name" in more else (),
        needed=more.get("needed", ""),
    )


TAINTS = "taintNodes"
"""Needed by those only who set ``failures.taintNodes``: base/ leaves it out, the chart as well."""
NAME = "florence-operator"
TLS_SECRET = "florence-operator-tls"

IN_JOBS_NAMESPACES = (
    _right(
        "florence.dev",
        "florencejobs",
        ("list watch", "what is to be run"),
        ("patch", "the finalizer"),
        ("delete", "ttlAfterFinished"),
    ),
    _right("florence.dev", "florencejobs/status", ("update", "its memory")),
    _right(
        "florence.dev",
        "florencejobs/finalizers",
        ("update", "owner references that block deletion, where the API server asks for it"),
    ),
    _right(
        "kubeflow.org",
        "pytorchjobs",
        ("list watch create delete", "attempts; whether Kueue takes them (`dryRun`)"),
    ),
    _right("trainer.kubeflow.org", "trainjobs", ("list watch create delete", "attempts")),
    _right(
        "trainer.kubeflow.org",
        "trainingruntimes",
        ("create delete", "one of each TrainJob"),
        ("get", "whether one that is in the way is the job's"),
    ),
    _right("jobset.x-k8s.io", "jobsets", ("get delete", "those of orphans")),
    _right("", "pods", ("list watch", "why attempts failed"), ("delete", "orphans of attempts")),
    _right("", "services", ("get delete", "those of orphans")),
    _right("batch", "jobs", ("get create patch", "the removal of artifacts")),
    _right("events.k8s.io", "events", ("create patch", "events and their counts")),
    _right("kueue.x-k8s.io", "workloads", ("list watch", "places in Kueue's queues")),
)
"""A ClusterRole, or a Role in each namespace that the operator watches."""

WITHOUT_NAMESPACE = (
    _right("", "nodes", ("list watch", "lost nodes")),
    _right(
        "",
        "nodes",
        ("patch", "the taint of nodes with too many strikes (`failures.taintNodes`)"),
        needed=TAINTS,
    ),
    _right(
        "authentication.k8s.io",
        "tokenreviews",
        ("create", "who reports progress, who reads metrics"),
    ),
    _right("authorization.k8s.io", "subjectaccessreviews", ("create", "who may read metrics")),
    _right(
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
        ("get patch", "the authority in its own webhook's configuration"),
        name=NAME,
        needed="webhookAuthority",
    ),
)
"""A ClusterRole in either scope."""

IN_OWN_NAMESPACE = (
    _right("coordination.k8s.io", "leases", ("get update patch", "election"), name=NAME),
    _right(
        "coordination.k8s.io",
        "leases",
        ("create", "the first election: what does not exist cannot be named"),
    ),
    _right(
        "",
        "secrets",
        ("patch", "certificates; it is never read: the pods see it as a folder"),
        name=TLS_SECRET,
        needed="selfMade",
    ),
)
"""A Role."""

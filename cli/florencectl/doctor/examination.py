"""Look at a cluster and have each thing judged: what ``doctor`` does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from florence_operator.api.crd import NAME, crd
from florence_operator.api.times import unix
from florencectl.cluster.errors import is_refusal, lacks_kind, server_words
from florencectl.cluster.node_fit import node_fits
from florencectl.doctor import checks, webhooks
from florencectl.doctor.backends import backends
from florencectl.doctor.check_pod import check_storage
from florencectl.doctor.checks import Check
from florencectl.levels import Level

if TYPE_CHECKING:
    from florence_operator.api import FlorenceJob
    from florence_operator.kube.client import Client, Resource

Document = dict[str, Any]

NEEDED = (
    ("florence.dev", "florencejobs", "", ("get", "list", "watch", "create", "patch", "delete")),
)
USEFUL = (
    ("", "pods", "", ("get", "list")),
    ("", "pods", "log", ("get",)),
    ("", "events", "", ("list",)),
)
# What passes the schema and its rules, and only the webhook knows to be wrong.
BAD_JOB: Document = {
    "apiVersion": "florence.dev/v1alpha1",
    "kind": "FlorenceJob",
    "metadata": {"name": "florence-doctor"},
    "spec": {
        "image": "none",
        "artifacts": {"uri": "s3://florence-doctor/none"},
        "stages": [
            {
                "name": name,
                "dependsOn": [other],
                "pretrain": {"data": "builtin:digits/train", "batchSize": 1, "steps": 1},
            }
            for name, other in (("a", "b"), ("b", "a"))
        ],
    },
}


async def examine(
    client: Client,
    namespace: str,
    job: FlorenceJob | None,
    within: float,
    *,
    clock: Callable[[], float] = time.time,
) -> list[Check]:
    """Every check, in the order in which a reader would repair things."""
    from florence_operator.kube.client import DEPLOYMENTS

    version = await client.request("GET", "/version")  # nothing else makes sense without it
    found = [checks.api_server(version, client.server)]
    deployments = await _listed(client, DEPLOYMENTS)
    groups: list[Awaitable[list[Check]]] = [
        _custom_resource(client),
        _operator(client, deployments, clock()),
        _webhook(client, namespace),
        _backends(client, deployments, job),
        _kueue(client, namespace, deployments, job),
        _nodes(client, job),
        _rights(client, namespace),
        _namespace(client, namespace),
    ]
    if job is not None:
        groups.append(_secrets(client, namespace, job))
        groups.append(check_storage(client, namespace, job, within))
    for group in await asyncio.gather(*groups):
        found += group
    return found


async def _custom_resource(client: Client) -> list[Check]:
    from florence_operator.kube.client import CRDS, ApiError

    try:
        return [checks.custom_resource(await client.get(CRDS, NAME), crd())]
    except ApiError as error:
        if error.not_found:
            return [checks.custom_resource(None, crd())]
        if not error.forbidden:
            raise
    served = await _served(client, "florence.dev/v1alpha1")
    if served is None:
        return [checks.custom_resource(None, crd())]
    return [Check("FlorenceJob CRD", Level.OK, "v1alpha1 (its schema may not be read by you)")]


async def _operator(client: Client, deployments: list[Document] | None, now: float) -> list[Check]:
    from florence_operator.kube.client import LEASES

    found = [checks.operator(deployments)]
    if found[0].level is not Level.OK:
        return found
    deployment = next(d for d in deployments or () if "florence-operator" in d["metadata"]["name"])
    metadata = deployment["metadata"]
    leases = await _listed(client, LEASES, metadata["namespace"])
    if leases is not None:
        # The chart and the manifests give both the same name.
        named = (x for x in leases if x["metadata"]["name"] == metadata["name"])
        lease = next(named, None)
        renewed = unix(((lease or {}).get("spec") or {}).get("renewTime"))
        found.append(checks.leader(lease, now, renewed))
    return found + await _webhooks_of_others(client, deployment)


async def _webhooks_of_others(client: Client, deployment: Document) -> list[Check]:
    from florence_operator.kube.resources import MUTATING_WEBHOOKS, NAMESPACES, VALIDATING_WEBHOOKS

    name = deployment["metadata"]["namespace"]
    namespace = await _one(client, NAMESPACES, name, "") or {"metadata": {"name": name}}
    configurations = [
        configuration
        for resource in (MUTATING_WEBHOOKS, VALIDATING_WEBHOOKS)
        for configuration in await _listed(client, resource) or ()
    ]
    return webhooks.operator_pods(configurations, namespace, deployment)


async def _webhook(client: Client, namespace: str) -> list[Check]:
    """Have the server look at a bad job: the webhook must refuse it."""
    from florence_operator.kube.client import ApiError

    name = "admission webhook"
    document = {**BAD_JOB, "metadata": {**BAD_JOB["metadata"], "namespace": namespace}}
    try:
        await client.create(document, dry_run=True)
    except ApiError as error:
        words = server_words(error)
        if is_refusal(error) and "webhook" in words:
            return [Check(name, Level.OK, "refuses a bad job")]
        if lacks_kind(error):
            return [Check(name, Level.FAIL, "there is no FlorenceJob to check", "install the CRD")]
        if error.forbidden:
            return [Check(name, Level.WARN, f"could not be tried: {words}")]
        return [Check(name, Level.FAIL, words, "see the operator's log and its Service")]
    return [
        Check(
            name,
            Level.WARN,
            "a bad job was not refused",
            "install the operator's ValidatingWebhookConfiguration",
        )
    ]


async def _backends(
    client: Client, deployments: list[Document] | None, job: FlorenceJob | None
) -> list[Check]:
    wanted = job.spec.run_policy.backend if job else "auto"
    jobsets = "jobsets" in (await _served(client, "jobset.x-k8s.io/v1alpha2") or ())
    return backends(await _kinds(client), deployments, wanted, jobsets=jobsets)


async def _kinds(client: Client) -> list[str]:
    """The kinds of children that the API server knows."""
    from florence_operator.kube.resources import PYTORCH_JOBS, TRAIN_JOBS

    return [
        resource.kind
        for resource in (PYTORCH_JOBS, TRAIN_JOBS)
        if resource.plural in (await _served(client, resource.api_version) or ())
    ]


async def _kueue(
    client: Client, namespace: str, deployments: list[Document] | None, job: FlorenceJob | None
) -> list[Check]:
    from florence_operator.kube.client import CONFIG_MAPS, LOCAL_QUEUES
    from florence_operator.kube.discovery import served
    from florence_operator.kube.resources import KUEUE_VERSIONS

    queue = job.spec.run_policy.queue if job else None
    local_queues = await served(client, LOCAL_QUEUES, KUEUE_VERSIONS)
    if local_queues is None:
        return [checks.kueue(None, queue, (), installed=False)]
    home = next(
        (d["metadata"]["namespace"] for d in deployments or () if "kueue" in d["metadata"]["name"]),
        "kueue-system",
    )
    settings = await _one(client, CONFIG_MAPS, "kueue-manager-config", home)
    text = "\n".join((settings.get("data") or {}).values()) if settings else None
    queues = await _listed(client, local_queues, namespace) or []
    wanted = job.spec.run_policy.backend if job else "auto"
    kinds = [wanted] if wanted != "auto" else await _kinds(client) or list(checks.FRAMEWORKS)
    return [checks.kueue(text, queue, [q["metadata"]["name"] for q in queues], kinds=kinds)]


async def _nodes(client: Client, job: FlorenceJob | None) -> list[Check]:
    from florence_operator.kube.client import NODES, PODS

    nodes = await _listed(client, NODES)
    pods = await _listed(client, PODS)
    pool = job.spec.node_pool if job else None
    selector = pool.selector if pool else {}
    tolerations = [toleration.wire() for toleration in pool.tolerations] if pool else []
    found = None if nodes is None else node_fits(nodes, pods, selector, tolerations)
    stages = [
        (stage.name, stage.resources.workers, stage.resources.gpus_per_worker)
        for stage in (job.spec.stages if job else ())
    ]
    return checks.node_pool(found, selector, stages)


async def _rights(client: Client, namespace: str) -> list[Check]:
    async def missing(wanted: tuple[tuple[str, str, str, tuple[str, ...]], ...]) -> list[str]:
        asked = [
            (f"{verb} {resource}{'/' + sub if sub else ''}", group, resource, sub, verb)
            for group, resource, sub, verbs in wanted
            for verb in verbs
        ]
        answers = await asyncio.gather(
            *(_allowed(client, namespace, *question[1:]) for question in asked)
        )
        return [question[0] for question, yes in zip(asked, answers, strict=True) if not yes]

    return [checks.rights(await missing(NEEDED), await missing(USEFUL))]


async def _allowed(
    client: Client, namespace: str, group: str, resource: str, subresource: str, verb: str
) -> bool:
    attributes = {
        "namespace": namespace,
        "group": group,
        "resource": resource,
        "subresource": subresource,
        "verb": verb,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = await client.create(review)
    return bool((answer.get("status") or {}).get("allowed"))


async def _namespace(client: Client, namespace: str) -> list[Check]:
    from florence_operator.kube.client import NAMESPACES, ApiError

    try:
        return [checks.namespace(await client.get(NAMESPACES, namespace), namespace)]
    except ApiError as error:
        if error.not_found:
            return [checks.namespace(None, namespace)]
        if error.forbidden:
            return [Check("namespace", Level.WARN, f"'{namespace}' may not be read by you")]
        raise


async def _secrets(client: Client, namespace: str, job: FlorenceJob) -> list[Check]:
    from florence_operator.kube.client import SECRETS, ApiError

    wanted: dict[str | None, tuple[str, ...]] = {
        job.spec.artifacts.credentials_secret: ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        job.spec.tracking.credentials_secret: (),
        **dict.fromkeys(job.spec.pods.image_pull_secrets, ()),
    }
    found = []
    for name, keys in wanted.items():
        if name is None:
            continue
        try:
            found.append(checks.secret(await client.get(SECRETS, name, namespace), name, keys))
        except ApiError as error:
            if error.not_found:
                found.append(checks.secret(None, name, keys))
            elif error.forbidden:
                found.append(
                    Check(f"Secret '{name}'", Level.OK, "may not be read by you, as it should be")
                )
            else:
                raise
    return found


async def _served(client: Client, version: str) -> list[str] | None:
    """The kinds that the server knows in a group's version; None when it does not know it."""
    from florence_operator.kube.client import ApiError

    try:
        answer = await client.request("GET", f"/apis/{version}")
    except ApiError as error:
        if error.not_found or error.forbidden:
            return None
        raise
    return [str(resource.get("name")) for resource in answer.get("resources") or ()]


async def _listed(
    client: Client, resource: Resource, namespace: str | None = None
) -> list[Document] | None:
    from florence_operator.kube.client import ApiError

    try:
        return (await client.list(resource, namespace))[0]
    except ApiError as error:
        if error.forbidden or error.not_found:
            return None
        raise


async def _one(client: Client, resource: Resource, name: str, namespace: str) -> Document | None:
    from florence_operator.kube.client import ApiError

    try:
        return await client.get(resource, name, namespace)
    except ApiError as error:
        if error.forbidden or error.not_found:
            return None
        raise

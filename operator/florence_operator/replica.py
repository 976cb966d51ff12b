"""One replica of the operator, put together from its settings."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from prometheus_client import CollectorRegistry

from florence_operator.admission.validation import validate
from florence_operator.api.blame import BAD
from florence_operator.api.duration import seconds
from florence_operator.api.labels import JOB_LABEL
from florence_operator.backends.protocol import Backend
from florence_operator.kube.client import (
    FLORENCE_JOBS,
    NODES,
    PODS,
    WORKLOADS,
    Client,
)
from florence_operator.kube.discovery import served
from florence_operator.kube.rate_limits import TokenBucket
from florence_operator.kube.resources import KUEUE_VERSIONS
from florence_operator.observe.caches import (
    BY_JOB,
    BY_NODE,
    BY_OWNER,
    BY_QUEUE,
    Caches,
    by_job,
    by_node,
    by_owner,
    follow_changes,
    queue_key,
    slim_node,
    slim_pod,
)
from florence_operator.observe.children import Children
from florence_operator.observe.installed import InstalledKinds, may_list
from florence_operator.observe.nodes import NodeRecords
from florence_operator.observe.strikes import Strikes
from florence_operator.progress.leader_proxy import LeaderForward
from florence_operator.progress.reports import ProgressBook
from florence_operator.progress.server import ProgressServer
from florence_operator.progress.tokens import TokenChecker
from florence_operator.reconcile.job_metrics import account, stages_by_state, stages_not_heard
from florence_operator.reconcile.reconciler import Reconciler
from florence_operator.reconcile.tainting import taint
from florence_operator.runtime.authority import service_names
from florence_operator.runtime.authorizing import Authorizer
from florence_operator.runtime.certificates import Certificates
from florence_operator.runtime.controller import Controller
from florence_operator.runtime.events import EventRecorder
from florence_operator.runtime.informer import Informer
from florence_operator.runtime.leader import Leader, Timing, utc_now
from florence_operator.runtime.manager import Manager
from florence_operator.runtime.metrics import Metrics
from florence_operator.runtime.review import AdmissionAnswer
from florence_operator.runtime.reviewer import Reviewer
from florence_operator.runtime.store import Key
from florence_operator.runtime.webserver import WebServer, health_routes, metrics_route
from florence_operator.settings import LeaderElection, OperatorConfiguration

SERVICE = "florence-operator"
_COUNT_SECONDS = 15.0

Document = dict[str, Any]


async def run_replica(settings: OperatorConfiguration, environment: Mapping[str, str]) -> int:
    """Run until a signal or a lost lease; returns the exit code.

    Args:
        settings: what the platform engineer set.
        environment: POD_NAME, POD_NAMESPACE and POD_IP say who this replica is.
    """
    metrics = Metrics(CollectorRegistry())
    limits = TokenBucket(settings.api_client.qps, settings.api_client.burst)
    client = await Client.connect(
        limiter=limits, user_agent="florence-operator", on_request=metrics.request
    )
    async with client:
        namespace = environment.get("POD_NAMESPACE") or client.namespace
        settings = with_progress_url(settings, namespace)
        caches = await make_caches(client, settings)
        replica = Replica(client, settings, caches, metrics, namespace, environment)
        return await replica.manager(filled=_spare_the_collector).run()


def _spare_the_collector() -> None:
    """What the caches hold stays: to walk through all of it again and again, to find no garbage,
    would make everybody wait for a good part of a second each time."""
    gc.collect()
    gc.freeze()


def with_progress_url(settings: OperatorConfiguration, namespace: str) -> OperatorConfiguration:
    """The settings with the address at which pods report progress."""
    url = settings.progress.url or f"https://{SERVICE}.{namespace}.svc:{settings.progress.port}"
    progress = settings.progress.model_copy(update={"url": url})
    return settings.model_copy(update={"progress": progress})


async def make_caches(client: Client, settings: OperatorConfiguration) -> Caches:
    """The informers of what this operator may and needs to see."""
    namespaces = settings.watch_namespaces
    ours: dict[str, Any] = {"namespaces": namespaces, "labels": JOB_LABEL}
    indices = {BY_JOB: by_job}
    nodes = workloads = None
    if await may_list(client, NODES.path()):
        nodes = Informer(client, NODES, transform=slim_node)
    found = None
    if settings.kueue == "auto":
        found = await served(client, WORKLOADS, KUEUE_VERSIONS)
    if found is not None:
        waiting = {BY_OWNER: by_owner, BY_QUEUE: queue_key}
        workloads = Informer(client, found, namespaces=namespaces, indices=waiting)
    children = Children()
    await installed_kinds(client, settings, children, kueue=workloads is not None).find()
    return Caches(
        jobs=Informer(client, FLORENCE_JOBS, namespaces=namespaces),
        children=children,
        pods=Informer(
            client, PODS, transform=slim_pod, indices={**indices, BY_NODE: by_node}, **ours
        ),
        nodes=nodes,
        workloads=workloads,
    )


def installed_kinds(
    client: Client,
    settings: OperatorConfiguration,
    children: Children,
    *,
    kueue: bool,
    changed: Callable[[], None] = lambda: None,
) -> InstalledKinds:
    """What finds the kinds of children that there are, and makes the informers that follow them."""
    namespaces = settings.watch_namespaces

    def informer(backend: Backend) -> Informer:
        return Informer(
            client,
            backend.resource,
            transform=backend.slim,
            indices={BY_JOB: by_job},
            namespaces=namespaces,
            labels=JOB_LABEL,
        )

    return InstalledKinds(
        client, children, informer, namespaces=namespaces, kueue=kueue, changed=changed
    )


class Replica:
    """The parts of one replica and how they are connected."""

    def __init__(
        self,
        client: Client,
        settings: OperatorConfiguration,
        caches: Caches,
        metrics: Metrics,
        namespace: str,
        environment: Mapping[str, str],
    ) -> None:
        pod = environment.get("POD_NAME", SERVICE)
        self._client = client
        self._settings = settings
        self._caches = caches
        self._metrics = metrics
        self._book = ProgressBook(seconds(settings.progress.silence))
        self._leads_since = time.time()
        self._host = urlsplit(settings.progress.url or "").hostname or SERVICE
        election = settings.leader_election
        self._leader = (
            Leader(
                client,
                namespace=namespace,
                name=election.lease_name,
                identity=f"{pod}/{environment.get('POD_IP', '127.0.0.1')}",
                timing=_timing(election),
                on_change=self._led,
            )
            if election.enabled
            else None
        )
        self.certificates = Certificates(
            client,
            directory=Path(settings.certificates.directory),
            namespace=namespace,
            secret=settings.certificates.secret,
            names=server_names(self._host),
            self_made=settings.certificates.self_made,
            webhook=settings.webhook.configuration
            if settings.webhook.enabled and settings.webhook.inject_ca
            else None,
        )
        self._strikes, nodes = Strikes(seconds(settings.failures.strike_half_life)), NodeRecords()
        caches.jobs.add_handler(self._strikes.take)
        if caches.nodes is not None:
            caches.nodes.add_handler(nodes.take)
        # A replica that was paused and has lost its lease meanwhile must not write once more.
        writer = client.guarded(self._leader.check) if self._leader else client
        self._writer = writer
        reconciler = Reconciler(
            writer,
            caches,
            EventRecorder(writer, SERVICE, utc_now, instance=pod),
            settings,
            self._book,
            clock=time.time,
            ca=lambda: self.certificates.authorities,
            hears_since=lambda: self._leads_since,
            told=lambda key, old, new: account(metrics, key, old, new),
            strikes=self._strikes,
            nodes=nodes,
        )
        self._controller = Controller(
            "florencejob",
            reconciler.reconcile,
            workers=settings.api_client.workers,
            metrics=metrics,
        )
        self._tokens = TokenChecker(client, settings.progress.audience, time.monotonic)
        self._kinds = installed_kinds(
            client,
            settings,
            caches.children,
            kueue=caches.workloads is not None,
            changed=self._look_at_all,
        )
        self._reconciler = reconciler
        follow_changes(caches, self._changed)
        caches.jobs.add_handler(self._forget)

    def _changed(self, key: Key) -> None:
        """Something of a job is other than it was: it is looked at, but for its own progress."""
        if not self._reconciler.writes_progress(key):
            self._controller.enqueue(key)

    def _got_further(self, key: Key) -> None:
        """A job has progress to be written: it is looked at when that may be done."""
        self._controller.enqueue_after(key, self._reconciler.turn(key))

    def _led(self, leads: bool) -> None:
        """The lease was won or lost; before that, reports of pods went to another replica."""
        self._metrics.leading(self._settings.leader_election.lease_name, leads)
        self._leads_since = time.time()

    def manager(self, filled: Callable[[], object] = lambda: None) -> Manager:
        """What runs it all; ``filled`` is called once the caches are filled."""
        health = WebServer([], port=self._settings.health_port)
        manager = Manager(
            informers=self._caches.all(),
            servers=self._servers(),
            early=[health, self._metrics_server()],
            tasks=[self.certificates.run, self._kinds.run],
            controllers=[self._controller],
            leading=[self.certificates.run_renewal, self._count],
            leader=self._leader,
            ready=self._unready,
            filled=filled,
            # Attempts carry the authorities that their pods trust, and keep them to their end.
            fit_to_lead=self.certificates.loaded.wait,
            shutdown_delay=seconds(self._settings.shutdown_delay),
        )
        health.add(health_routes(manager.unhealthy, manager.unready))
        return manager

    def _metrics_server(self) -> WebServer:
        settings, route = self._settings.metrics, metrics_route(self._metrics)
        if not settings.protected:
            return WebServer([route], port=settings.port)
        guarded = Authorizer(self._client).guarded(route)
        return WebServer([guarded], port=settings.port, tls=self.certificates.tls)

    def _servers(self) -> list[WebServer]:
        tls = self.certificates.tls
        progress = WebServer(
            [("POST", "/progress", self._counted(self._progress_server().handle))],
            port=self._settings.progress.port,
            tls=tls,
        )
        if not self._settings.webhook.enabled:
            return [progress]
        route = Reviewer(self._validate).route("/validate")
        return [progress, WebServer([route], port=self._settings.webhook.port, tls=tls)]

    def _validate(self, request: Document) -> AdmissionAnswer:
        served = self._caches.children.installed.served
        answer = validate(request, self._settings, served=served)
        return AdmissionAnswer(answer.allowed, answer.message, answer.warnings)

    def _progress_server(self) -> ProgressServer:
        leader, port = self._leader, self._settings.progress.port
        return ProgressServer(
            self._caches,
            self._tokens,
            self._book,
            clock=time.time,
            enqueue=self._controller.enqueue,
            in_turn=self._got_further,
            leading=lambda: leader is None or leader.leads,
            forward=LeaderForward(leader, port, self._host, lambda: self.certificates.authorities)
            if leader
            else _nobody,
        )

    def _counted(
        self, handle: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def counted(request: web.Request) -> web.StreamResponse:
            response = await handle(request)
            result = "taken" if response.status < 300 else "refused"
            result = "failed" if response.status >= 500 else result
            self._metrics.progress_reports.labels(result=result).inc()
            return response

        return counted

    def _unready(self) -> list[str]:
        if self.certificates.loaded.is_set():
            return []
        return [f"{self._settings.certificates.directory} holds no certificate yet"]

    def _look_at_all(self) -> None:
        """What can be made has changed: some job may have waited for that."""
        for job in self._caches.jobs.all():
            metadata = job["metadata"]
            self._controller.enqueue(Key(metadata["namespace"], metadata["name"]))

    def _forget(self, old: Document | None, new: Document | None) -> None:
        if new is None and old is not None:
            self._metrics.ended(old["metadata"]["namespace"], old["metadata"]["name"])

    async def _count(self) -> None:
        while True:
            jobs = self._caches.jobs.all()
            self._metrics.count_stages(stages_by_state(jobs))
            self._metrics.stages_not_heard.set(stages_not_heard(jobs))
            weights = self._strikes.weights(time.time())
            self._metrics.count_strikes(weights)
            effect = self._settings.failures.taint_nodes
            if effect != "none" and self._caches.nodes is not None:
                struck = [node for node, weight in weights.items() if weight > BAD]
                await taint(self._writer, self._caches.nodes.all(), struck, effect)
            await asyncio.sleep(_COUNT_SECONDS)


async def _nobody(body: bytes, authorization: str) -> tuple[int, bytes]:
    raise OSError("this replica leads, and there is no other")


def _timing(election: LeaderElection) -> Timing:
    return Timing(
        lease_duration=seconds(election.lease_duration),
        renew_deadline=seconds(election.renew_deadline),
        retry_period=seconds(election.retry_period),
    )


def server_names(host: str) -> list[str]:
    """The names of a Service, given ``<service>.<namespace>.svc``; another host is its only one."""
    parts = host.split(".")
    if parts[2:3] != ["svc"]:
        return [host]
    names = service_names(parts[0], parts[1])
    return [*names] if host in names else [*names, host]

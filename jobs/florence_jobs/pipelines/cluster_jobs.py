"""FlorenceJobs of a cluster through the official client: create, adopt, watch, suspend."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from florence.errors import ConfigurationError, FlorenceError, TransientError
from florence_jobs.pipelines.requests import SPEC

GROUP, VERSION, PLURAL = "florence.dev", "v1alpha1", "florencejobs"
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
WATCH_SECONDS = 240
"""A watch is asked for again after this long, whether or not it told anything."""
READ_SECONDS = 60.0 + WATCH_SECONDS
LONGEST_OUTAGE = 3600.0
"""Seconds that the API server may be away before the step gives up. The job goes on meanwhile."""
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 30.0
_PASSING = {0, 408, 429, 500, 502, 503, 504}

Document = dict[str, Any]


class GoneError(FlorenceError):
    """Somebody deleted the job that a step watches."""

    exit_code = 3


class ClusterJobs:
    """The FlorenceJobs of one namespace.

    Args:
        api: a ``kubernetes.client.CustomObjectsApi``.
        namespace: of the jobs.
        wait: waits for some seconds between two tries to reach an API server that is away.
        monotonic: a clock.
    """

    def __init__(
        self,
        api: Any,
        namespace: str,
        *,
        wait: Callable[[float], object] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self.namespace = api, namespace
        self._wait = wait or threading.Event().wait
        self._monotonic = monotonic

    def create_or_adopt(self, document: Document) -> Document:
        """Create a job; one of its name that was asked for in the same way is taken as it is.

        An earlier start of the same step has made that one; where it was suspended when that was
        stopped it goes on.

        Raises:
            ConfigurationError: the job is refused, another one has its name, or the step may not
                create any.
            TransientError: the API server is away.
        """
        name = document["metadata"]["name"]
        while True:
            try:
                made: Document = self._ask("create", body=document)
                return made
            except ConfigurationError as error:
                if getattr(error.__cause__, "status", None) != 409:
                    raise
            known = self.get(name)
            if known is None:  # deleted in between
                continue
            wanted = document["metadata"]["annotations"][SPEC]
            if (known["metadata"].get("annotations") or {}).get(SPEC) != wanted:
                raise ConfigurationError(
                    f"florencejob {self.namespace}/{name} exists and was asked for with another "
                    "spec: delete it, or give the job another name"
                )
            if (known["spec"].get("runPolicy") or {}).get("suspend"):
                wanted_suspend = (document["spec"].get("runPolicy") or {}).get("suspend", False)
                known = self._suspended(name, bool(wanted_suspend)) or known
            return known

    def get(self, name: str) -> Document | None:
        """A job as it is now. Raises as :meth:`create_or_adopt`."""
        try:
            known: Document = self._ask("get", name)
            return known
        except ConfigurationError as error:
            if getattr(error.__cause__, "status", None) == 404:
                return None
            raise

    def states(self, name: str, uid: str) -> Iterator[Document]:
        """The job as it is, then with every change, until the caller has seen enough.

        Every look begins with a list and goes on with a watch from there, so nothing is missed
        over a lost connection and nothing is asked for again and again.

        Raises:
            GoneError: it was deleted, or another one has taken its name.
            ConfigurationError: the step may not watch it.
            TransientError: the API server is away for too long.
        """
        seen: str | None = None
        for document in self._changes(name):
            if document is None or document["metadata"].get("uid") != uid:
                raise GoneError(
                    f"florencejob {self.namespace}/{name} was deleted while its step waited for it"
                )
            version = document["metadata"].get("resourceVersion")
            if version != seen:
                seen = version
                yield document

    def suspend(self, name: str) -> None:
        """Ask a job to checkpoint and free its pods."""
        self._suspended(name, True)

    def delete(self, name: str, uid: str) -> None:
        """Delete a job, unless another one has taken its name."""
        from kubernetes.client import V1DeleteOptions, V1Preconditions

        options = V1DeleteOptions(
            preconditions=V1Preconditions(uid=uid), propagation_policy="Background"
        )
        try:
            self._ask("delete", name, body=options)
        except ConfigurationError as error:
            if getattr(error.__cause__, "status", None) not in (404, 409):
                raise

    def _changes(self, name: str) -> Iterator[Document | None]:
        """What lists and watches tell of one job; ``None`` when it is not there."""
        field = f"metadata.name={name}"
        while True:
            found = self._ask("list", field_selector=field)
            yield next(iter(found["items"]), None)
            version = found["metadata"]["resourceVersion"]
            for event in self._events(field, version):
                if event["object"]["metadata"].get("name") != name:  # a bookmark
                    continue
                if event["type"] == "DELETED":
                    yield None
                elif event["type"] in ("ADDED", "MODIFIED"):
                    yield event["object"]

    def _events(self, field: str, version: str) -> Iterator[Document]:
        """The events of one watch, until it ends for whatever reason but a refusal."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            response = self._api.list_namespaced_custom_object(
                GROUP,
                VERSION,
                self.namespace,
                PLURAL,
                field_selector=field,
                resource_version=version,
                watch=True,
                timeout_seconds=WATCH_SECONDS,
                _preload_content=False,
                _request_timeout=(10.0, READ_SECONDS),
            )
        except ApiException as error:
            if error.status in _PASSING or error.status == 410:
                return
            raise self._refused("watch", None, error) from error
        except HTTPError:
            return
        try:
            for line in _lines(response):
                event = json.loads(line)
                if event["type"] == "ERROR":  # too old a version, most often
                    return
                yield event
        except (HTTPError, OSError, ValueError):
            return
        finally:
            response.release_conn()
            response.close()

    def _suspended(self, name: str, suspend: bool) -> Document | None:
        try:
            patched: Document = self._ask(
                "patch", name, body={"spec": {"runPolicy": {"suspend": suspend}}}
            )
            return patched
        except ConfigurationError as error:
            if getattr(error.__cause__, "status", None) == 404:
                return None
            raise

    def _ask(self, verb: str, name: str | None = None, **more: Any) -> Any:
        """One request, again and again while the API server is away."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        call = getattr(self._api, f"{verb}_namespaced_custom_object")
        place = (GROUP, VERSION, self.namespace, PLURAL)
        arguments = [*place, name] if name is not None else [*place]
        body = [more.pop("body")] if "body" in more and verb != "delete" else []
        began, delay, problem = self._monotonic(), _FIRST_DELAY, ""
        while True:
            try:
                return call(*arguments, *body, _request_timeout=(10.0, 60.0), **more)
            except ApiException as error:
                if error.status not in _PASSING:
                    raise self._refused(verb, name, error) from error
                problem = f"HTTP {error.status}"
            except HTTPError as error:
                problem = str(error).partition("\n")[0]
            if self._monotonic() - began > LONGEST_OUTAGE:
                raise TransientError(f"the API server is away: {problem}; try again")
            if delay == _FIRST_DELAY:
                print(f"the API server is away ({problem}): asking again", flush=True)
            self._wait(delay)
            delay = min(2 * delay, _LONGEST_DELAY)

    def _refused(self, verb: str, name: str | None, error: Any) -> ConfigurationError:
        """A refusal in words that say what to do."""
        where = f"florencejobs in namespace {self.namespace}"
        if error.status in (401, 403):
            return ConfigurationError(
                f"this step may not {verb} {where}: bind the Role florence-pipelines to its "
                "service account (docs/pipelines.md)"
            )
        if error.status == 404 and name is None:
            return ConfigurationError(
                f"{where}: the cluster knows no FlorenceJobs: install the operator"
            )
        return ConfigurationError(f"{verb} {name or where}: {_said(error)}")


def connected(namespace: str = "") -> ClusterJobs:
    """The jobs of a namespace of the cluster that this process is in, or its kubeconfig names.

    Args:
        namespace: default: the pod's own, or that of the kubeconfig's context.

    Raises:
        ConfigurationError: there is no cluster.
    """
    from kubernetes import client, config

    try:
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config()
            own = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
        else:
            config.load_kube_config()
            context = config.list_kube_config_contexts()[1]
            own = context["context"].get("namespace", "default")
    except (config.ConfigException, OSError) as error:
        raise ConfigurationError(
            f"no cluster can be reached from this step: {str(error).partition(chr(10))[0]}"
        ) from None
    return ClusterJobs(client.CustomObjectsApi(), namespace or own)


def _lines(response: Any) -> Iterator[bytes]:
    """The lines of an answer that goes on."""
    rest = b""
    for piece in response.stream(amt=None, decode_content=True):
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line for line in lines if line.strip())


def _said(error: Any) -> str:
    """What the API server answered, in a line."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"HTTP {error.status} {error.reason}"

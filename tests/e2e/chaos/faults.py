"""Bring a fault about, and take it back: with kubectl, and with what breaks the machine."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.e2e import jobs
from tests.e2e.chaos.plan import Fault
from tests.e2e.kube import NAMESPACE, SYSTEM, KubectlError, Machine, items, kubectl

PROCESSES = {
    "api-server": "kube-apiserver",
    "etcd": "etcd",
    "dns": "coredns",
    "storage": "minio",
}
_KILL_TRAINER = (
    "import os, signal\n"
    "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
    "    words = open(f'/proc/{pid}/cmdline').read().split(chr(0))\n"
    "    if words[1:3] == ['-u', '-m'] and 'florence_jobs.main' in words:\n"
    "        os.kill(int(pid), signal.SIGKILL)\n"
)
_LAST_NODE = 2
"""Nodes that are broken: never the first, where the cluster's own programs are."""

Document = dict[str, Any]


def bring_about(fault: Fault, machine: Machine | None) -> str:
    """Do it, and take back what lasts; returns what was hit, or why nothing was."""
    try:
        return _FAULTS[fault.kind](fault, machine)
    except (KubectlError, subprocess.SubprocessError) as error:
        # What is broken already may be in the way of what would have been broken.
        return (
            f"not done: {str(error).splitlines()[0][:200] if str(error) else type(error).__name__}"
        )


def _pick(found: Sequence[Document], choice: float) -> Document | None:
    ordered = sorted(found, key=lambda each: str(each["metadata"]["name"]))
    return ordered[int(choice * len(ordered))] if ordered else None


def _pod(fault: Fault, _: Machine | None) -> str:
    victim = _pick(_running(), fault.choice)
    if victim is None:
        return "no pod runs"
    name = victim["metadata"]["name"]
    kubectl("-n", NAMESPACE, "delete", "pod", name, "--force", "--grace-period=0")
    return str(name)


def _process(fault: Fault, _: Machine | None) -> str:
    victim = _pick(_running(), fault.choice)
    if victim is None:
        return "no pod runs"
    name = victim["metadata"]["name"]
    kubectl("-n", NAMESPACE, "exec", name, "--", "python", "-c", _KILL_TRAINER)
    return f"the trainer in {name}"


def _running() -> list[Document]:
    pods = items("pods", labels="florence.dev/job")
    return [pod for pod in pods if pod["status"].get("phase") == "Running"]


def _operator(fault: Fault, _: Machine | None) -> str:
    labels = "app.kubernetes.io/name=florence-operator"
    kubectl(*("-n", SYSTEM, "delete", "pods", "-l", labels, "--force", "--grace-period=0"))
    return "all replicas"


def _leader(fault: Fault, _: Machine | None) -> str:
    where = ("-n", SYSTEM, "get", "lease", "florence-operator")
    holder = kubectl(*where, "-o", "jsonpath={.spec.holderIdentity}").split("/")[0]
    kubectl("-n", SYSTEM, "delete", "pod", holder, "--force", "--grace-period=0")
    return holder


def _node(fault: Fault, machine: Machine | None) -> str:
    assert machine is not None
    back = "start" if fault.how == "kill" else "mend"
    machine(fault.how, _LAST_NODE)
    try:
        time.sleep(fault.hold)
    finally:
        machine(back, _LAST_NODE)
    return f"node{_LAST_NODE} ({fault.how})"


def _frozen(fault: Fault, machine: Machine | None) -> str:
    assert machine is not None
    program = PROCESSES[fault.kind]
    machine.freeze(program)
    try:
        time.sleep(fault.hold)
    finally:
        machine.thaw(program)
    return f"{program} for {fault.hold:g} s"


_FAULTS: dict[str, Callable[[Fault, Machine | None], str]] = {
    "pod": _pod,
    "process": _process,
    "operator": _operator,
    "leader": _leader,
    "node": _node,
    **dict.fromkeys(PROCESSES, _frozen),
}


def phase_of(name: str) -> str | None:
    """The state of a job; None while the API server does not say."""
    with contextlib.suppress(KubectlError, subprocess.SubprocessError):
        return jobs.phase(name)
    return None

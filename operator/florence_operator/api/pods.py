"""Where the stages' pods run, and how they are made beside their resources."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from florence.config.base import Settings, setting


class Toleration(Settings):
    """A taint of the nodes that the pods tolerate."""

    key: str | None = setting(
        None, description="taint key; none tolerates all with operator Exists"
    )
    operator: Literal["Exists", "Equal"] = setting("Equal", description="Exists or Equal")
    value: str | None = setting(None, description="taint value")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = setting(
        None, description="taint effect; none tolerates all"
    )
    toleration_seconds: int | None = setting(
        None, description="how long NoExecute is tolerated", unit="seconds", ge=0
    )


class NodePool(Settings):
    """Which nodes the pods may run on."""

    selector: dict[str, str] = setting({}, description="node labels")
    tolerations: tuple[Toleration, ...] = setting((), description="taints that the pods tolerate")


class Volume(Settings):
    """A folder of the cluster that the pods see: exactly one of its sources."""

    mount_path: str = setting(description="absolute path in the pods", pattern="^/")
    read_only: bool = setting(True, description="whether the pods may only read it")
    persistent_volume_claim: str | None = setting(
        None, description="name of a PersistentVolumeClaim"
    )
    host_path: str | None = setting(
        None,
        description="folder of the node; only what the operator's settings allow",
        pattern="^/",
    )

    @model_validator(mode="after")
    def _exactly_one_source(self) -> Self:
        if (self.persistent_volume_claim is None) == (self.host_path is None):
            raise ValueError("a volume needs exactly one of persistentVolumeClaim and hostPath")
        return self


class Pods(Settings):
    """How the stages' pods are made, beside their resources."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = setting(
        None, description="when the image is pulled; default: Kubernetes' own rule"
    )
    image_pull_secrets: tuple[str, ...] = setting(
        (), description="Secrets with credentials of the image's registry"
    )
    service_account: str | None = setting(
        None, description="ServiceAccount; only one that the operator's settings allow"
    )
    labels: dict[str, str] = setting(
        {}, description="labels of the pods; none of those that Services and controllers select by"
    )
    annotations: dict[str, str] = setting(
        {}, description="annotations of the pods; only those that the operator's settings allow"
    )
    environment: dict[str, str] = setting({}, description="environment variables, no secrets")
    volumes: tuple[Volume, ...] = setting((), description="folders that the pods see")
    shared_memory: str | None = setting(
        None, description="size of /dev/shm, as Kubernetes writes it; default: half the memory"
    )
    temporary_storage: str | None = setting(
        None,
        description="size of /tmp, on the node's disk, as Kubernetes writes it; default: the "
        "operator's",
    )

"""What a cluster asks of a job beyond its schema: what it lacks, and what it may not have.

Every finding is one line that starts with the field's path.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from pydantic import ValidationError

from florence.config.base import locations
from florence_operator.api.pods import NodePool, Pods, Volume
from florence_operator.api.v1alpha1 import FlorenceJob, Stage, Tracking
from florence_operator.build.plan import plan_text
from florence_operator.build.pod_template import ANNOTATIONS_SIZE, CONFIG_FOLDER, TOKEN_FOLDER
from florence_operator.kube.quantities import quantity
from florence_operator.settings import Allowed, OperatorConfiguration

_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BUCKET = re.compile(r"s3://[a-zA-Z0-9][a-zA-Z0-9._-]{1,61}[a-zA-Z0-9](/.*)?", re.DOTALL)

_OWN_LABELS = (
    *("florence.dev/", "training.kubeflow.org/", "trainer.kubeflow.org/", "kueue.x-k8s.io/"),
    *("jobset.sigs.k8s.io/", "batch.kubernetes.io/"),
)
# By these Services, network policies and schedulers choose pods, the operator's own Service too.
_SELECTED_BY = re.compile(r"app|k8s-app|([^/]*\.)?(kubernetes\.io|k8s\.io|x-k8s\.io)/.*")
_OWN_VARIABLES = re.compile(
    r"PET_.*|AWS_.*|MLFLOW_TRACKING_.*|FLORENCE_.*|POD_NAME|POD_IP|NODE_NAME"
    r"|MASTER_ADDR|MASTER_PORT|RANK|LOCAL_RANK|WORLD_SIZE"
)
_OTHERS_ANNOTATIONS = 32 * 1024
"""Room for the authorities, and for what network plugins and schedulers write."""
_OWN_FOLDERS = (CONFIG_FOLDER, TOKEN_FOLDER, "/tmp", "/dev", "/proc", "/sys")


def policy_problems(job: FlorenceJob, settings: OperatorConfiguration) -> list[str]:
    """What keeps a valid job from running on this operator's cluster."""
    found = [
        *_image(job, settings),
        *_artifacts(job),
        *_tracking(job.spec.tracking),
        *_node_pool(job.spec.node_pool),
        *_pods(job.spec.pods, settings.allowed),
        *_queue(job),
        *_backend(job, settings),
        *(
            problem
            for index, stage in enumerate(job.spec.stages)
            for problem in _stage(f"spec.stages[{index}]", stage, job.spec.pods.volumes)
        ),
    ]
    # A plan can be made only of a job that has nothing else wrong with it.
    return found or [*_annotations_size(job, settings)]


def unfit(job: FlorenceJob, settings: OperatorConfiguration) -> str | None:
    """The first thing that keeps a valid job from running here; None when nothing does."""
    return next(iter(policy_problems(job, settings)), None)


def _image(job: FlorenceJob, settings: OperatorConfiguration) -> Iterator[str]:
    image = job.spec.image
    if not (image or settings.defaults.image):
        yield "spec.image: the pods need an image, and the operator has no default: name one"
    elif image is not None and (not image or image != image.strip() or " " in image):
        yield f"spec.image: '{image[:80]}' is not the name of an image"


def _artifacts(job: FlorenceJob) -> Iterator[str]:
    artifacts, field = job.spec.artifacts, "spec.artifacts"
    if not artifacts.uri:
        yield f"{field}.uri: pods keep nothing of their own: name an s3://bucket/prefix"
    else:
        yield from _location(f"{field}.uri", artifacts.uri, job.spec.pods.volumes, written=True)
    try:
        _ = artifacts.s3
    except ValidationError as error:
        yield f"{field}.endpoint: {error.errors()[0]['ctx']['error']}"
    yield from _object_name(f"{field}.credentialsSecret", artifacts.credentials_secret)


def _tracking(tracking: Tracking) -> Iterator[str]:
    field = "spec.tracking"
    yield from _object_name(f"{field}.credentialsSecret", tracking.credentials_secret)
    if tracking.mlflow_uri is None:
        return
    try:
        parts = urlsplit(tracking.mlflow_uri)
        named = parts.scheme in ("http", "https") and bool(parts.hostname)
        secret = bool(parts.username or parts.password)
    except ValueError:
        named = secret = False
    if secret:  # not repeated here: refusals are logged
        yield f"{field}.mlflowUri: holds credentials: put them into a Secret for credentialsSecret"
    elif not named:
        yield f"{field}.mlflowUri: pods need a server: write http://host:port or https://host"


def _node_pool(pool: NodePool) -> Iterator[str]:
    yield from _labels("spec.nodePool.selector", pool.selector)
    for index, toleration in enumerate(pool.tolerations):
        field = f"spec.nodePool.tolerations[{index}]"
        if toleration.operator == "Exists" and toleration.value:
            yield f"{field}.value: must be left out with operator Exists"
        if toleration.operator == "Equal" and not toleration.key:
            yield f"{field}.key: is required with operator Equal"
        elif toleration.key and not _LABEL_KEY.fullmatch(toleration.key):
            yield f"{field}.key: '{toleration.key[:80]}' is not the key of a taint"
        if toleration.toleration_seconds is not None and toleration.effect != "NoExecute":
            yield f"{field}.tolerationSeconds: needs the effect NoExecute"


def _pods(pods: Pods, allowed: Allowed) -> Iterator[str]:
    if pods.service_account and pods.service_account not in allowed.service_accounts:
        may = ", ".join(allowed.service_accounts) or "none"
        yield (
            f"spec.pods.serviceAccount: '{pods.service_account[:80]}' is not allowed here: the "
            f"operator's settings allow {may}"
        )
    for index, name in enumerate(pods.image_pull_secrets):
        yield from _object_name(f"spec.pods.imagePullSecrets[{index}]", name)
    yield from _labels("spec.pods.labels", pods.labels)
    for key in pods.labels:
        if _SELECTED_BY.fullmatch(key) and not _among(key, allowed.labels):
            yield from _not_allowed("spec.pods.labels", key, allowed.labels)
    for key in pods.annotations:
        yield from _label_key("spec.pods.annotations", key)
        if not _among(key, allowed.annotations):
            yield from _not_allowed("spec.pods.annotations", key, allowed.annotations)
    for name in pods.environment:
        if not _VARIABLE.fullmatch(name):
            yield f"spec.pods.environment['{name[:80]}']: is not a name of a variable"
        elif _OWN_VARIABLES.fullmatch(name):
            yield (
                f"spec.pods.environment.{name}: is set by the operator; credentials come from "
                "artifacts.credentialsSecret and tracking.credentialsSecret"
            )
    yield from _size("spec.pods.sharedMemory", pods.shared_memory)
    yield from _size("spec.pods.temporaryStorage", pods.temporary_storage)
    for index, volume in enumerate(pods.volumes):
        yield from _volume(f"spec.pods.volumes[{index}]", volume, allowed)
    mounts = [posixpath.normpath(volume.mount_path) for volume in pods.volumes]
    for index, mount in enumerate(mounts):
        if mount in mounts[:index]:
            yield f"spec.pods.volumes[{index}].mountPath: {mount} is another volume's too"


def _volume(field: str, volume: Volume, allowed: Allowed) -> Iterator[str]:
    mount = volume.mount_path
    if ".." in mount.split("/") or ":" in mount or not mount.isprintable():
        yield f"{field}.mountPath: must be a plain absolute path, without '..' and ':'"
    elif any(_below(own, mount) or _below(mount, own) for own in _OWN_FOLDERS):
        yield f"{field}.mountPath: {mount} would hide or change a folder that the pods need"
    yield from _object_name(f"{field}.persistentVolumeClaim", volume.persistent_volume_claim)
    path = volume.host_path
    if path is None:
        return
    may = ", ".join((*allowed.host_paths, *allowed.writable_host_paths)) or "none"
    if ".." in path.split("/"):
        yield f"{field}.hostPath: must not contain '..'"
    elif any(_same(path, folder) for folder in allowed.writable_host_paths):
        return
    # Where jobs may write they may have made links, and a mount would follow one to anywhere.
    elif any(_below(path, folder) for folder in allowed.writable_host_paths) or not any(
        _below(path, folder) for folder in allowed.host_paths
    ):
        yield (
            f"{field}.hostPath: {path[:80]} is not allowed here: the operator's settings "
            f"allow {may}"
        )
    elif not volume.read_only:
        may = ", ".join(allowed.writable_host_paths) or "none"
        yield (
            f"{field}.readOnly: must be true for {path[:80]}: the operator's settings allow jobs "
            f"to write to {may}"
        )


def _queue(job: FlorenceJob) -> Iterator[str]:
    policy = job.spec.run_policy
    for field, value in (("queue", policy.queue), ("priorityClass", policy.priority_class)):
        if value is not None and (not value or not _LABEL_VALUE.fullmatch(value)):
            yield f"spec.runPolicy.{field}: '{value[:80]}' is not the name of an object"


def _backend(job: FlorenceJob, settings: OperatorConfiguration) -> Iterator[str]:
    wanted, fixed = job.spec.run_policy.backend, settings.backend
    if "auto" not in (wanted, fixed) and wanted != fixed:
        yield (
            f"spec.runPolicy.backend: the operator's settings make all children {fixed}s: choose "
            "that or auto"
        )
    needed = job.spec.run_policy.backend_needed
    if needed and fixed not in ("auto", needed):
        yield (
            f"spec.runPolicy.topology: Volcano's needs {needed}s, and the operator's settings make "
            f"all children {fixed}s"
        )


def _stage(field: str, stage: Stage, volumes: tuple[Volume, ...]) -> Iterator[str]:
    yield from _size(f"{field}.resources.cpu", stage.resources.cpu)
    yield from _size(f"{field}.resources.memory", stage.resources.memory)
    for path, uri in locations(stage):
        yield from _location(f"{field}.{path}", uri, volumes)


def _annotations_size(job: FlorenceJob, settings: OperatorConfiguration) -> Iterator[str]:
    """Whether the plans fit beside the annotations that the job asks for.

    Nobody but the pods would be refused, and they are the Training Operator's to make.
    """
    room = (ANNOTATIONS_SIZE - _OTHERS_ANNOTATIONS) // 1024
    own = sum(len(f"{key}{value}".encode()) for key, value in job.spec.pods.annotations.items())
    for index, stage in enumerate(job.spec.stages):
        size = len(plan_text(job, stage, 1, settings).encode())
        if own + size <= room * 1024:
            continue
        field = f"spec.stages[{index}].{stage.kind.name}"
        yield (
            f"{field if size > own else 'spec.pods.annotations'}: is too long: {size // 1024} KiB "
            f"of the stage's plan and {own // 1024} KiB of spec.pods.annotations are more than the "
            f"{room} KiB that a pod's annotations have room for"
        )


def _location(
    field: str, uri: str, volumes: tuple[Volume, ...], *, written: bool = False
) -> Iterator[str]:
    """Whether pods reach a URI: in S3, or in a folder below a volume that is mounted."""
    if uri.startswith("builtin:") and not written:
        return
    if uri.startswith("s3://"):
        if "@" in uri.removeprefix("s3://").partition("/")[0]:
            yield f"{field}: holds credentials: name a Secret in spec.artifacts.credentialsSecret"
        elif not _BUCKET.fullmatch(uri):
            yield f"{field}: names no valid bucket: write s3://bucket/prefix"
        return
    path = uri.removeprefix("file://")
    if "://" in path:
        yield f"{field}: pods cannot open it: write s3://bucket/prefix"
        return
    mounts = [v for v in volumes if _below(path, v.mount_path)]
    if not path.startswith("/") or ".." in path.split("/") or not mounts:
        yield (
            f"{field}: '{path[:80]}' is in no volume of the pods: write s3://bucket/prefix, or a "
            "folder below the mountPath of one of spec.pods.volumes"
        )
    elif written and max(mounts, key=lambda v: len(v.mount_path)).read_only:
        yield f"{field}: its volume is mounted readOnly: set readOnly to false in spec.pods.volumes"


def _size(field: str, text: str | int | None) -> Iterator[str]:
    if text is None:
        return
    try:
        positive = quantity(text) > 0
    except ValueError:
        yield f"{field}: '{str(text)[:80]}' is not a quantity: write it as 2, 500m or 16Gi"
        return
    if not positive:
        yield f"{field}: must be greater than 0"


def _object_name(field: str, name: str | None) -> Iterator[str]:
    if name is not None and not _OBJECT_NAME.fullmatch(name):
        yield f"{field}: '{name[:80]}' is not the name of an object"


def _labels(field: str, labels: Mapping[str, str]) -> Iterator[str]:
    for key, value in labels.items():
        yield from _label_key(field, key)
        if not _LABEL_VALUE.fullmatch(value):
            yield f"{field}['{key[:80]}']: '{value[:80]}' is not the value of a label"


def _label_key(field: str, key: str) -> Iterator[str]:
    if not _LABEL_KEY.fullmatch(key):
        yield f"{field}['{key[:80]}']: is not the key of a label or annotation"
    elif field.startswith("spec.pods.") and key.startswith(_OWN_LABELS):
        yield f"{field}['{key}']: is the operator's, the Training Operator's or Kueue's own"


def _among(key: str, allowed: Sequence[str]) -> bool:
    """Whether a key is one of those allowed, or has one of the prefixes."""
    return any(key == one or (one.endswith("/") and key.startswith(one)) for one in allowed)


def _not_allowed(field: str, key: str, allowed: Sequence[str]) -> Iterator[str]:
    if _LABEL_KEY.fullmatch(key) and not key.startswith(_OWN_LABELS):
        may = ", ".join(allowed) or "none"
        yield f"{field}['{key}']: is not allowed here: the operator's settings allow {may}"


def _same(path: str, folder: str) -> bool:
    return posixpath.normpath(path) == posixpath.normpath(folder)


def _below(path: str, folder: str) -> bool:
    """Whether a path is a folder or something in it, both absolute."""
    path, folder = posixpath.normpath(path), posixpath.normpath(folder)
    return path == folder or path.startswith(folder.rstrip("/") + "/")

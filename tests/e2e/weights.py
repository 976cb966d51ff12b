"""The parameters of a job's final model, as a digest."""

from __future__ import annotations

import hashlib

from safetensors.numpy import load

from florence.config.storage import S3Settings
from florence.storage import Storage, open_storage
from tests.e2e import jobs
from tests.e2e.kube import forwarded


def digest(storage: Storage) -> str:
    """Of all tensors of a model's folder, by name."""
    found = hashlib.sha256()
    files = sorted(e.key for e in storage.list() if e.key.endswith(".safetensors"))
    assert files
    for file in files:
        for key, tensor in sorted(load(storage.read(file)).items()):
            found.update(key.encode() + tensor.tobytes())
    return found.hexdigest()


def digest_of(name: str) -> str:
    """Of a job's model, over a connection of its own: older ones end with what soaks break."""
    with forwarded("minio", 9000) as address:
        return digest(open_storage(jobs.stage(name)["model"], S3Settings(endpoint=address)))

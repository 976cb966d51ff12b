"""The tags of registered versions and of runs that say where they are from; imports no MLflow."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from florence_jobs.tracking.server import redacted

WEIGHTS_DIGEST = "florence.weights"
"""Tag of a version: SHA-256 of its ``model.safetensors``."""
URI = "florence.uri"
"""Tag of a version: where the stage left its files."""
MODEL_ID = "florence.modelId"
"""Tag of a version: the logged model that it is; MLflow itself keeps that on servers only."""
ENDPOINT = "florence.endpoint"
"""Tag of a version: the S3 service of an ``s3://`` URI."""
PARENT = "florence.parent"
"""Tag of a version and of a run: the version that it started from, or its URI where that is not
registered."""
FINGERPRINT = "florence.dataFingerprint"
"""Tag of a run and a version: what tells its training data from other data."""
STARTED_FROM = "florence.startedFrom"
"""Tag of a run: the URI of the model that the stage started from."""
COMMIT = "mlflow.source.git.commit"
"""MLflow's own tag of the code's revision."""
BRANCH, REPOSITORY = "mlflow.source.git.branch", "mlflow.source.git.repoURL"
"""MLflow's own tags of the checkout that the code is of."""
IMAGE = "florence.image"
"""Tag: the container image that the stage ran in."""


def place_of(uri: str) -> str:
    """The URI of a model as its tag has it: whether one names a stage or its ``model/``."""
    return redacted(uri).rstrip("/").removesuffix("/model") + "/model"


def code_tags(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Which code runs: the revision of the working directory or the image, and the image."""
    found = {}
    if commit := environment.get("FLORENCE_GIT_SHA"):
        found[COMMIT] = commit
    else:
        found |= _checkout(Path.cwd())
    if image := environment.get("FLORENCE_IMAGE"):
        found[IMAGE] = image
    return found


def _checkout(folder: Path) -> dict[str, str]:
    """The git revision of a folder, its branch and where it is from, as far as there are such.

    A ``-dirty`` revision has changes that it does not have.
    """
    commit = _git(folder, "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    if commit is None:
        return {}
    asked = {
        COMMIT: commit,
        BRANCH: _git(folder, "symbolic-ref", "--short", "--quiet", "HEAD"),
        REPOSITORY: _git(folder, "config", "--get", "remote.origin.url"),
    }
    return {tag: redacted(value) for tag, value in asked.items() if value}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says in one line; ``None`` where it says nothing."""
    command = ["git", *arguments]
    try:
        ran = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip() or None

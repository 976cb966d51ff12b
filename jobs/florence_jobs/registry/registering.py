"""What MLflow's registry is told of a stage's final model."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from florence.errors import DataError
from florence.models.card import parse_card
from florence_jobs.registry.references import CANDIDATE, SCHEME, registered_name
from florence_jobs.registry.tags import (
    MODEL_ID,
    PARENT,
    STARTED_FROM,
    URI,
    WEIGHTS_DIGEST,
    place_of,
)
from florence_jobs.tracking.events import flatten

_VERSIONS = "mlflow.modelVersions"
"""MLflow's own tag of a logged model: its page leads to the registered versions by it."""
LONGEST_TAG = 5000
"""Of a registered version: MLflow's own limit for older servers."""


def registration(
    experiment: str, files: Mapping[str, bytes], tags: Mapping[str, str]
) -> dict[str, Any] | None:
    """Under which name a model is registered and with which tags; ``None`` without a card.

    Args:
        files: of the model, by name.
        tags: where it is from.
    """
    from florence.models.stored import CARD, WEIGHTS  # torch, which the stage has anyway

    if CARD not in files:
        return None
    try:
        card, _ = parse_card(files[CARD], CARD)
    except DataError:
        return None
    described = flatten({**card.wire(), "trained": {}}, "card.")
    if WEIGHTS in files:
        described[WEIGHTS_DIGEST] = hashlib.sha256(files[WEIGHTS]).hexdigest()
    kept = {k: v for k, v in {**described, **tags}.items() if len(v) <= LONGEST_TAG}
    return {"name": registered_name(experiment, card.task), "tags": kept}


def register(client: Any, model_id: str, run_id: str, data: Mapping[str, Any]) -> str:
    """Make a logged model a version of the registered model, once; the version.

    It becomes the ``candidate``.

    Args:
        data: what :func:`registration` returned.
    """
    from mlflow.exceptions import MlflowException

    name = data["name"]
    try:
        client.create_registered_model(name, tags={"florence.task": data["tags"]["card.task"]})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    quoted = name.replace("'", "")
    for known in client.search_model_versions(f"name = '{quoted}'"):
        if known.tags.get(MODEL_ID) == model_id:
            return str(known.version)
    tags = {**data["tags"], MODEL_ID: model_id}
    if started := tags.get(STARTED_FROM):
        tags[PARENT] = parent_of(client, started)
    model = client.get_logged_model(model_id)
    made = client.create_model_version(
        name,
        # Not models:/ID: with SQLite MLflow looks for that in its global store.
        source=model.artifact_location,
        run_id=run_id,
        tags=tags,
        description=_described(tags),
        model_id=model_id,
    )
    client.set_registered_model_alias(name, CANDIDATE, made.version)
    if _VERSIONS not in model.tags:  # servers set it, and refuse others to
        with contextlib.suppress(MlflowException):
            versions = json.dumps([{"name": name, "version": str(made.version)}])
            client.set_logged_model_tags(model_id, {_VERSIONS: versions})
    return str(made.version)


def parent_of(client: Any, uri: str) -> str:
    """The registered version whose files are at a URI, else the URI."""
    if uri.startswith(SCHEME):
        return uri
    quoted = place_of(uri).replace("'", "")
    found = client.search_model_versions(f"tags.`{URI}` = '{quoted}'")
    newest = max(found, key=lambda each: int(each.creation_timestamp), default=None)
    return uri if newest is None else f"{SCHEME}{newest.name}/{newest.version}"


def _described(tags: Mapping[str, str]) -> str:
    """The text on a version's page."""
    job, stage = tags.get("florence.name", "?"), tags.get("florence.stage", "?")
    where = tags.get(URI)
    return f"Stage `{stage}` of job `{job}`" + (f", files at `{where}`." if where else ".")

"""Which versions of a kind an API server serves: others' APIs grow up while we are installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from florence_operator.kube.client import Client
from florence_operator.kube.errors import ApiError
from florence_operator.kube.resources import Resource


async def served(client: Client, resource: Resource, understood: Sequence[str]) -> Resource | None:
    """The resource in the version that the server prefers of those that we understand.

    Returns:
        ``None`` where the group, the kind, or every version that we understand is missing.
    """
    try:
        group = await client.request("GET", f"/apis/{resource.group}")
        preferred = (group.get("preferredVersion") or {}).get("version")
        versions = [preferred, *(each.get("version") for each in group.get("versions") or ())]
        for version in dict.fromkeys(version for version in versions if version in understood):
            found = await client.request("GET", f"/apis/{resource.group}/{version}")
            if any(each.get("name") == resource.plural for each in found.get("resources") or ()):
                return replace(resource, version=version)
    except ApiError as error:
        if not error.not_found:
            raise
    return None

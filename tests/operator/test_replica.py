from __future__ import annotations

import asyncio

import pytest

from florence_operator.replica import make_caches, server_names, with_progress_url
from florence_operator.settings import OperatorConfiguration
from tests.operator.fake_apiserver import FakeApiServer


def test_pods_reach_the_service_of_the_operators_namespace_unless_told_otherwise() -> None:
    made = with_progress_url(OperatorConfiguration(), "ml-system")
    assert made.progress.url == "https://florence-operator.ml-system.svc:8443"
    told = OperatorConfiguration.model_validate({"progress": {"url": "https://there:1"}})
    assert with_progress_url(told, "x").progress.url == "https://there:1"


@pytest.mark.parametrize(
    ("host", "names"),
    [
        (
            "fo.ns.svc",
            ["fo", "fo.ns", "fo.ns.svc", "fo.ns.svc.cluster.local"],
        ),
        ("progress.example.org", ["progress.example.org"]),
        ("localhost", ["localhost"]),
    ],
)
def test_the_certificate_is_for_every_name_of_the_service(host: str, names: list[str]) -> None:
    assert server_names(host) == names


@pytest.mark.parametrize(
    ("versions", "read"),
    [
        (["v1beta2"], "v1beta2"),
        (["v1beta1"], "v1beta1"),
        (["v1beta2", "v1beta1"], "v1beta2"),
        (["v2", "v1beta1"], "v1beta1"),
        (["v2"], None),
        ([], None),
    ],
)
def test_workloads_are_read_in_a_version_that_the_server_has(
    versions: list[str], read: str | None
) -> None:
    async def main() -> None:
        async with FakeApiServer() as server, server.client() as client:
            server.groups["kueue.x-k8s.io"] = versions
            caches = await make_caches(client, OperatorConfiguration())
            found = caches.workloads
            assert (found.resource.version if found is not None else None) == read

    asyncio.run(main())

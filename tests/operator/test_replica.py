from __future__ import annotations

import pytest

from florence_operator.replica import server_names, with_progress_url
from florence_operator.settings import OperatorConfiguration


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

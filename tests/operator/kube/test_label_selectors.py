"""Label selectors, by the words of Kubernetes' documentation."""

from __future__ import annotations

from typing import Any

import pytest

from florence_operator.kube.label_selectors import selects

LABELS = {"tier": "gpu", "zone": "a"}


def one(operator: str, key: str, *values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("selector", "taken"),
    [
        (None, True),
        ({}, True),
        ({"matchLabels": {"tier": "gpu"}}, True),
        ({"matchLabels": {"tier": "gpu", "zone": "b"}}, False),
        ({"matchLabels": {"other": "x"}}, False),
        (one("In", "tier", "cpu", "gpu"), True),
        (one("In", "other", "x"), False),
        (one("NotIn", "tier", "cpu"), True),
        (one("NotIn", "tier", "gpu"), False),
        (one("NotIn", "other", "x"), True),
        (one("Exists", "zone"), True),
        (one("Exists", "other"), False),
        (one("DoesNotExist", "other"), True),
        (one("DoesNotExist", "zone"), False),
        ({"matchLabels": {"tier": "gpu"}, **one("NotIn", "zone", "a")}, False),
    ],
)
def test_all_of_a_selector_has_to_hold(selector: dict[str, Any] | None, taken: bool) -> None:
    assert selects(selector, LABELS) is taken

"""Of which kind the next child is."""

from __future__ import annotations

from typing import Any

import pytest

from florence_operator.api.run_policy import RunPolicy
from florence_operator.backends.choice import Installed, chosen

BOTH = ("PyTorchJob", "TrainJob")
DROPPED = frozenset({"PyTorchJob"})
QUEUED: dict[str, Any] = {"queue": "q"}


@pytest.mark.parametrize(
    ("policy", "fixed", "served", "unqueued", "kind"),
    [
        ({}, "auto", ("PyTorchJob",), frozenset(), "PyTorchJob"),
        ({}, "auto", ("TrainJob",), frozenset(), "TrainJob"),
        ({}, "auto", BOTH, frozenset(), "PyTorchJob"),
        # Where Kueue takes no PyTorchJobs, they would not wait in its queue.
        (QUEUED, "auto", BOTH, frozenset(), "PyTorchJob"),
        (QUEUED, "auto", BOTH, DROPPED, "TrainJob"),
        ({}, "auto", BOTH, DROPPED, "PyTorchJob"),
        (QUEUED, "auto", ("PyTorchJob",), DROPPED, "PyTorchJob"),
        # Who says what they want gets it, or is told that it is not there.
        ({"backend": "TrainJob"}, "auto", ("PyTorchJob",), frozenset(), "TrainJob"),
        ({"backend": "PyTorchJob", **QUEUED}, "auto", BOTH, DROPPED, "PyTorchJob"),
        ({}, "TrainJob", BOTH, frozenset(), "TrainJob"),
        ({"backend": "PyTorchJob"}, "TrainJob", BOTH, frozenset(), "TrainJob"),
        # Only TrainJobs carry Volcano's topology.
        ({"gang": "volcano"}, "auto", BOTH, frozenset(), "PyTorchJob"),
        (
            {"gang": "volcano", "topology": {"required": "1"}},
            "auto",
            BOTH,
            frozenset(),
            "TrainJob",
        ),
        ({}, "auto", (), frozenset(), "PyTorchJob"),
    ],
)
def test_the_kind_is_what_job_settings_and_cluster_say(
    policy: dict[str, Any],
    fixed: str,
    served: tuple[str, ...],
    unqueued: frozenset[str],
    kind: str,
) -> None:
    installed = Installed(served=served, unqueued=unqueued)
    assert chosen(RunPolicy.model_validate(policy), fixed, installed) == kind

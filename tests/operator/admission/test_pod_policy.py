"""What jobs may ask for their pods: not what would lead them, or others, where they may not go."""

from __future__ import annotations

import pytest

from florence_operator.settings import OperatorConfiguration
from tests.operator.admission.test_validation import create, put, small, with_volume


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("path", ["/mnt/data/scratch", "/mnt/data/scratch/", "/nvme"])
def test_folders_that_jobs_may_write_to(path: str, read_only: bool) -> None:
    assert create(with_volume(hostPath=path, readOnly=read_only)).allowed


@pytest.mark.parametrize("path", ["/mnt/data", "/mnt/data/a", "/srv/x"])
def test_other_folders_of_nodes_are_read_only(path: str) -> None:
    answer = create(with_volume(hostPath=path, readOnly=False))
    assert answer.message.startswith("spec.pods.volumes[0].readOnly: ")


@pytest.mark.parametrize("path", ["/mnt/data/scratch/link", "/nvme/a/b"])
def test_what_jobs_may_have_made_is_no_folder_to_mount(path: str) -> None:
    """A link that one job makes there would lead the next one's mount anywhere on the node."""
    answer = create(with_volume(hostPath=path))
    assert answer.message.startswith("spec.pods.volumes[0].hostPath: ")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("labels", {"team": "vision", "example.com/a": "b", "app.kubernetes.io/part-of": "x"}),
        ("annotations", {"example.com/a": "b", "prometheus.io/scrape": "true"}),
    ],
)
def test_labels_and_annotations_that_are_allowed(field: str, values: dict[str, str]) -> None:
    answer = create(put(small(), f"spec.pods.{field}", values))
    assert answer.allowed, answer


def test_the_operators_own_labels_cannot_be_allowed() -> None:
    settings = OperatorConfiguration.model_validate(
        {"allowed": {"labels": ["florence.dev/", "kueue.x-k8s.io/"]}}
    )
    job = put(small(), "spec.pods.labels", {"florence.dev/job": "x"})
    assert "is the operator's" in create(job, settings).message

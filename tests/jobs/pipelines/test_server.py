"""``submit``: KFP's own client against a stand-in server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

pytest.importorskip("kfp", reason="the extra 'pipelines' is not installed")

from florence.errors import ConfigurationError, TransientError
from florence_jobs.pipelines.compiling import compiled
from florence_jobs.pipelines.server import PipelineServer, with_seconds
from tests.gang import free_port
from tests.jobs.pipelines.kfp_server import KfpServer, served_kfp

pytestmark = pytest.mark.timeout(300)

NAME = "nightly-evaluation"
ARGUMENTS = {"model": "models:/a@champion", "evaluation": "…", "gate": "top1 > 0.5"}


@pytest.fixture
def kfp() -> Iterator[KfpServer]:
    with served_kfp() as server:
        yield server


@pytest.fixture(scope="module")
def text() -> str:
    return compiled(NAME)


def test_a_pipeline_is_uploaded_and_started(kfp: KfpServer, text: str) -> None:
    done = PipelineServer(kfp.url).submit(NAME, text, ARGUMENTS, service_account="runner")
    (run,) = kfp.runs
    assert done.url == f"{kfp.url}/#/runs/details/{run['run_id']}"
    assert run["runtime_config"]["parameters"] == ARGUMENTS
    assert run["service_account"] == "runner"
    (experiment,) = kfp.experiments
    assert (experiment["display_name"], run["experiment_id"]) == (
        "florence",
        experiment["experiment_id"],
    )
    version = run["pipeline_version_reference"]
    (used,) = (
        v for v in kfp.versions if v["pipeline_version_id"] == version["pipeline_version_id"]
    )
    assert used["display_name"].startswith(f"{NAME}-")
    assert {yaml.safe_dump(next(yaml.safe_load_all(t))) for t in kfp.uploads} == {
        yaml.safe_dump(next(yaml.safe_load_all(text)))
    }


def test_what_is_there_is_not_uploaded_again(kfp: KfpServer, text: str) -> None:
    server = PipelineServer(kfp.url)
    server.submit(NAME, text, ARGUMENTS)
    uploads = len(kfp.uploads)
    server.submit(NAME, text, ARGUMENTS)
    assert len(kfp.uploads) == uploads
    server.submit(NAME, text.replace("florence-jobs:0.1.0", "other:1"), ARGUMENTS)
    assert len(kfp.uploads) == uploads + 1
    assert (len(kfp.pipelines), len(kfp.experiments), len(kfp.runs)) == (1, 1, 3)


def test_a_schedule_makes_a_recurring_run(kfp: KfpServer, text: str) -> None:
    done = PipelineServer(kfp.url).submit(NAME, text, ARGUMENTS, cron="0 2 * * *")
    (made,) = kfp.recurring
    assert made["trigger"]["cron_schedule"]["cron"] == "0 0 2 * * *"
    assert (made["mode"], made["no_catchup"]) == ("ENABLE", True)
    assert done.url.endswith(f"/#/recurringrun/details/{made['recurring_run_id']}")
    assert kfp.runs == []


def test_credentials_are_sent_and_a_refusal_says_what_to_give(kfp: KfpServer, text: str) -> None:
    kfp.token = "secret"
    PipelineServer(kfp.url, token="secret", cookies="session=1").submit(NAME, text, ARGUMENTS)
    assert all(sent.get("Cookie") == "session=1" for sent in kfp.headers)
    with pytest.raises(ConfigurationError, match="refuses these credentials") as caught:
        PipelineServer(kfp.url, token="wrong", namespace="team").submit(NAME, text, ARGUMENTS)
    assert "wrong" not in str(caught.value)


def test_a_server_that_is_away_is_no_mistake_of_the_user(text: str) -> None:
    with pytest.raises(TransientError, match="does not answer"):
        PipelineServer(f"http://127.0.0.1:{free_port()}", namespace="team").submit(
            NAME, text, ARGUMENTS
        )
    with pytest.raises(ConfigurationError, match="give http"):
        PipelineServer("kfp:8888")


@pytest.mark.parametrize("cron", ["", "* * * *", "0 0 0 0 0 0 0"])
def test_what_is_no_schedule_is_refused(cron: str) -> None:
    with pytest.raises(ConfigurationError, match="give five fields"):
        with_seconds(cron)

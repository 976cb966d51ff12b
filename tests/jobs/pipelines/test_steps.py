"""The light steps: as functions, and as the components that KFP's local orchestration runs."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kfp", reason="the extra 'pipelines' is not installed")

from kfp import dsl, local

from florence.errors import ConfigurationError, DataError, TransientError
from florence_jobs.pipelines import components, steps
from florence_jobs.pipelines.requests import requested
from tests.jobs.pipelines.test_cluster_jobs import JOB
from tests.registered import stage
from tests.small_model import picture

KEEP_ALL = {"minSide": 16, "nearDuplicates": False}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two classes of two images each, and the first image once more."""
    for name in ("cat/0", "cat/1", "dog/2", "dog/3", "dog/0"):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(int(name[-1])).save(path)
    return tmp_path / "images"


class Webhook(BaseHTTPRequestHandler):
    """Takes what is posted, or refuses it."""

    taken: list[dict[str, Any]]
    answer = 200

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.taken.append(json.loads(self.rfile.read(length)))
        self.send_response(self.answer)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Tests need no access log."""


@pytest.fixture
def webhook() -> Iterator[tuple[str, type[Webhook]]]:
    handler = type("Handler", (Webhook,), {"taken": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret", handler
    server.shutdown()
    server.server_close()


def test_settings_of_data_are_checked_by_name(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="format: 'none' is none of class-folders"):
        steps.import_data("none", [str(folders)], str(tmp_path / "o"), {})
    with pytest.raises(ConfigurationError, match=r"settings: .*clases"):
        steps.import_data("class-folders", [str(folders)], str(tmp_path / "o"), {"clases": "x"})
    with pytest.raises(ConfigurationError, match=r"settings: .*distance"):
        steps.curate_data(str(folders), str(tmp_path / "o"), {"distance": 99})
    with pytest.raises(DataError):
        steps.index_data(str(tmp_path / "nothing"))


def test_a_plan_fails_where_a_stage_does_not_fit() -> None:
    job = yaml.safe_load(JOB)
    (only,) = job["spec"]["stages"]
    only["resources"] = {"workers": 1, "gpusPerWorker": 1}
    job["spec"]["nodePool"] = {"selector": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}}
    job["spec"]["model"] = {"preset": "coswin-nano"}
    assert steps.plan_job(requested(json.dumps(job))).splitlines()[-1].endswith("| True |")
    job["spec"]["model"] = {"preset": "coswin-h"}
    only["pretrain"]["batchSize"] = 8192
    with pytest.raises(ConfigurationError, match=r"stage mixed needs .* GB a GPU"):
        steps.plan_job(requested(json.dumps(job)))


def test_jobs_get_the_model_that_they_start_from() -> None:
    (text,) = steps.start_from("models:/web@champion", [JOB])
    (only,) = yaml.safe_load(text)["spec"]["stages"]
    assert only["initialModel"] == "models:/web@champion"


def test_messages_are_posted_and_a_secret_address_is_not_told(
    webhook: tuple[str, type[Webhook]],
) -> None:
    url, handler = webhook
    steps.notify(url, "done")
    assert handler.taken == [{"text": "done"}]
    handler.answer = 500
    with pytest.raises(TransientError) as refused:
        steps.notify(url, "done")
    assert "secret" not in str(refused.value)
    with pytest.raises(ConfigurationError, match="url: give an http"):
        steps.notify("file:///etc/passwd", "done")
    steps.notify("", "printed only")


@pytest.mark.slow
def test_a_gate_is_asked_and_an_alias_moved_by_the_files_that_a_stage_left(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    first = stage(store, tmp_path, "first", top1=0.8)
    first.close("FINISHED")
    uri = f"{tmp_path}/first/model"
    gate = "digits/top1 >= champion + 0.1"
    compared = steps.compare_models(uri, gate, store=store)
    assert (compared.passed, compared.version) == (True, "models:/digits-contrastive/1")
    assert steps.register_model(uri, gate=gate, store=store) == compared.version
    stage(store, tmp_path, "second", top1=0.85).close("FINISHED")
    closed = steps.compare_models(f"{tmp_path}/second", gate, store=store)
    assert (closed.passed, closed.version) == (False, "models:/digits-contrastive/2")
    with pytest.raises(ConfigurationError, match="models:/digits-contrastive/2 stays what it is"):
        steps.register_model(closed.version, gate=gate, store=store)
    with pytest.raises(DataError, match="no registered model is there"):
        steps.compare_models(str(tmp_path / "elsewhere"), "", store=store)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_components_of_data_make_a_pipeline(
    folders: Path, tmp_path: Path, webhook: tuple[str, type[Webhook]]
) -> None:
    url, handler = webhook
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "kfp"))

    @dsl.pipeline(name="data")
    def data(sources: list, out: str, kept: str, url: str) -> int:  # type: ignore[type-arg]
        imported = components.import_data(format="class-folders", sources=sources, out=out)
        curated = components.curate_data(uri=imported.outputs["uri"], out=kept, settings=KEEP_ALL)
        indexed = components.index_data(uri=curated.outputs["uri"])
        components.notify(message="indexed", url=url).after(indexed)
        return indexed.outputs["samples"]

    done = data(sources=[str(folders)], out=str(tmp_path / "o"), kept=str(tmp_path / "k"), url=url)
    assert done.output == 4
    found = steps.index_data(str(tmp_path / "k"))
    assert (found.samples, len(found.fingerprint)) == (4, 16)
    assert found.fingerprint != steps.index_data(str(tmp_path / "o")).fingerprint
    assert handler.taken == [{"text": "indexed"}]

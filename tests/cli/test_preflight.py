"""What is refused before anything starts: real files, folders, servers, and a whole command."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from florence.config.storage import S3Settings
from florence.errors import (
    ConfigurationError,
    DataError,
    FlorenceError,
    MissingExtraError,
    TransientError,
)
from florence.storage import Storage
from florence_operator.api import FlorenceJob
from florencectl.preflight import check_local, check_uris
from tests.florence.data.making import picture, write_shards

PRETRAIN = {"data": "builtin:digits/train", "batchSize": 4, "steps": 4}
DIGITS = {"name": "digits", "data": "builtin:digits/test", "prompts": "digits"}


def job_of(*stages: dict[str, Any], **artifacts: Any) -> FlorenceJob:
    return FlorenceJob.model_validate(
        {
            "apiVersion": "florence.dev/v1alpha1",
            "kind": "FlorenceJob",
            "metadata": {"name": "small"},
            "spec": {
                "artifacts": artifacts,
                "stages": [{"name": f"s{n}", **stage} for n, stage in enumerate(stages)],
            },
        }
    )


def pretrain(**changes: Any) -> dict[str, Any]:
    return {"pretrain": {**PRETRAIN, **changes}}


def evaluation(kind: str = "zeroShot", **changes: Any) -> dict[str, Any]:
    return {"dependsOn": ["s0"], "evaluate": {kind: [{**DIGITS, **changes}]}}


def check(job: FlorenceJob, tmp_path: Path, **options: Any) -> None:
    check_local(job, artifacts=str(tmp_path / "artifacts"), **{"seconds": 60, **options})


def refusal(job: FlorenceJob, tmp_path: Path, **options: Any) -> str:
    with pytest.raises(FlorenceError) as refused:
        check(job, tmp_path, **options)
    return str(refused.value)


def test_what_is_well_passes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", 4, 2)
    for name in ("folders/cat/1.png", "photos/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(0))
    (tmp_path / "prompts.yaml").write_text("classes: [cat]")
    (tmp_path / "templates.txt").write_text("a {}\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "pairs.csv").write_text("image,text\n")
    shards, photos = str(tmp_path / "shards"), str(tmp_path / "photos")
    before = sorted(tmp_path.rglob("*"))
    here = str(tmp_path)
    job = job_of(
        pretrain(data=shards, text={"templates": f"{here}/templates.txt"}),
        {**pretrain(data=f"file://{here}/pairs.csv"), "initialModel": f"{here}/model"},
        evaluation(data=f"{here}/folders", prompts=f"{here}/prompts.yaml"),
        {
            "dependsOn": ["s0"],
            "evaluate": {"retrieval": [{"name": "r", "data": photos, "format": "folder"}]},
        },
        {
            "initialModel": f"{here}/artifacts/default/small/s0/model",  # made by then
            "evaluate": {"zeroShot": [{**DIGITS, "data": f"{shards}/00000.tar"}]},
        },
    )
    check(job, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (pretrain(data="HERE/nothing"), "pretrain.data: HERE/nothing: no such file or folder"),
        (pretrain(data="HERE/photos"), "pretrain.data: HERE/photos holds images, but neither"),
        (pretrain(data="HERE/empty"), "pretrain.data: HERE/empty holds neither shards"),
        (pretrain(data="HERE/packed"), "pretrain.data: HERE/packed holds compressed shards"),
        (pretrain(data="HERE/photos/1.png"), "pretrain.data: HERE/photos/1.png is a file of no"),
        (pretrain(data="builtin:cats/x"), "pretrain.data: builtin:cats/x is not a built-in"),
        (pretrain(data="s3://A_/x"), "pretrain.data: s3://A_/x names no valid bucket"),
        (pretrain(data="gs://a/x"), "pretrain.data: gs:// is not a storage"),
        (
            pretrain(text={"templates": "HERE/nothing.txt"}),
            "pretrain.text.templates: HERE/nothing.txt: no such file or folder",
        ),
        (
            pretrain(text={"templates": "HERE/bad.txt"}),
            "pretrain.text.templates: line 1 of 'HERE/bad.txt' has no {}",
        ),
        (
            {**pretrain(), "initialModel": "HERE/empty"},
            "initialModel: HERE/empty holds no model",
        ),
        (
            pretrain(evaluation={"zeroShot": [{**DIGITS, "prompts": "HERE/bad.yaml"}]}),
            "pretrain.evaluation.zeroShot[0].prompts: 'HERE/bad.yaml' must hold two lists",
        ),
        (
            {"finetune": {"mode": "linearProbe", "data": "HERE/photos", "prompts": "HERE/no.yaml"}},
            "finetune.prompts: HERE/no.yaml: no such file or folder",
        ),
    ],
)
def test_every_stage_is_looked_at_before_the_first_one(
    tmp_path: Path, stage: dict[str, Any], message: str
) -> None:
    for name, content in (
        ("photos/1.png", picture(0)),
        ("packed/a.tar.gz", b""),
        ("bad.txt", b"no gap"),
        ("bad.yaml", b"[1]"),
        ("empty/readme", b""),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    stage = json.loads(json.dumps(stage).replace("HERE", str(tmp_path)))
    line = f"spec.stages[1].{message.replace('HERE', str(tmp_path))}"
    found = refusal(job_of(pretrain(), stage), tmp_path).splitlines()
    assert any(each.startswith(line) for each in found), found


def test_all_findings_are_told_with_the_exit_code_of_the_first(tmp_path: Path) -> None:
    job = job_of(pretrain(data="/nowhere/a"), evaluation(data="/nowhere/b", prompts="/nowhere/c"))
    with pytest.raises(DataError) as refused:
        check(job, tmp_path)
    assert [line.partition(": ")[0] for line in str(refused.value).splitlines()] == [
        "spec.stages[0].pretrain.data",
        "spec.stages[1].evaluate.zeroShot[0].data",
        "spec.stages[1].evaluate.zeroShot[0].prompts",
    ]


@pytest.mark.parametrize("uri", ["/proc/nothing/can/be/made/here", "FILE", "FILE/below"])
def test_artifacts_that_cannot_be_written(tmp_path: Path, uri: str) -> None:
    (tmp_path / "file").write_text("")
    uri = uri.replace("FILE", str(tmp_path / "file"))
    found = refusal(job_of(pretrain(), uri=uri), tmp_path)
    assert found.startswith("spec.artifacts.uri: ")
    assert "cannot be written" in found or "is a file: give a folder" in found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_what_may_not_be_read_or_written(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0)
    shut = str(tmp_path / "shut")
    assert "cannot be read" in refusal(job_of(pretrain(data=shut)), tmp_path)
    assert "cannot be written" in refusal(job_of(pretrain(), uri=shut), tmp_path)


def test_an_engine_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "deepspeed" else find(name)
    )
    check(job_of(pretrain()), tmp_path)
    with pytest.raises(MissingExtraError, match=r"pip install 'florence\[deepspeed\]'"):
        check(job_of(pretrain(), pretrain(engine="deepspeed")), tmp_path)


def test_buckets_are_asked(tmp_path: Path, s3_storage: Storage, s3_settings: S3Settings) -> None:
    s3_storage.write("shards/a.tar", b"")
    s3_storage.write("prompts.yaml", b"classes: [cat]")
    base = s3_storage.uri
    there = {"uri": base, "endpoint": s3_settings.endpoint}
    fine = pretrain(data=f"{base}/shards")
    check(job_of(fine, evaluation(prompts=f"{base}/prompts.yaml"), **there), tmp_path)
    check(job_of(pretrain(data=f"{base}/shards/a.tar"), **there), tmp_path)
    missing = refusal(job_of(pretrain(data=f"{base}/nothing"), **there), tmp_path)
    assert missing.startswith(f"spec.stages[0].pretrain.data: {base}/nothing does not exist")
    prompts = refusal(job_of(fine, evaluation(prompts=f"{base}/no.yaml"), **there), tmp_path)
    assert f"zeroShot[0].prompts: {base}/no.yaml does not exist" in prompts
    there["uri"] = "s3://no-such-bucket/x"
    bucket = refusal(job_of(fine, **there), tmp_path)
    assert bucket.startswith("spec.artifacts.uri: s3://no-such-bucket/x")
    assert "create the bucket or correct its name" in bucket


def test_a_service_that_refuses_is_told_and_one_that_is_silent_left_to_the_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_of(pretrain(), uri="s3://bucket/x", endpoint="http://127.0.0.1:9")
    with pytest.raises(TransientError, match=r"spec\.artifacts\.uri: s3://bucket/x.*not answer"):
        check(job, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        job = job_of(pretrain(data="s3://bucket/a"), uri="s3://bucket/x", endpoint=endpoint)
        check(job, tmp_path, seconds=0.1)
    assert capsys.readouterr().err.splitlines() == [
        f"{field}: s3://bucket/{name} did not answer within 0.1 s; going on without it"
        for field, name in (("spec.stages[0].pretrain.data", "a"), ("spec.artifacts.uri", "x"))
    ]


def test_on_a_cluster_only_what_is_wrong_everywhere_is_refused() -> None:
    check_uris(job_of(pretrain(data="/mnt/data"), uri="s3://bucket/x"))
    with pytest.raises(ConfigurationError) as refused:
        check_uris(job_of(pretrain(data="builtin:x"), uri="s3://B_/x"))
    assert [line.partition(": ")[0] for line in str(refused.value).splitlines()] == [
        "spec.stages[0].pretrain.data",
        "spec.artifacts.uri",
    ]


def test_the_command_refuses_without_torch_and_starts_nothing(tmp_path: Path) -> None:
    job = job_of(pretrain(), evaluation(prompts=str(tmp_path / "prompts.yaml")))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job.manifest()))
    script = (
        "import sys\n"
        f"sys.argv = ['florencectl', 'submit', '-f', {str(tmp_path / 'job.yaml')!r}, '--local']\n"
        "from florencectl.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "print(code, {'torch', 'mlflow', 'sklearn', 'boto3'} & set(sys.modules))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        text=True,
        capture_output=True,
        timeout=120,
        env={**os.environ, "FLORENCE_HOME": str(tmp_path / "home")},
    )
    assert result.stdout == "3 set()\n", result.stderr
    assert result.stderr == (
        f"florencectl: spec.stages[1].evaluate.zeroShot[0].prompts: {tmp_path}/prompts.yaml: no "
        "such file or folder: check the path\n"
    )
    assert not (tmp_path / "home").exists()

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from florence.errors import ConfigurationError, TransientError
from florence_jobs.local.records import Records
from florence_jobs.recipes.digits import digits
from florence_operator.api import JobStatus, StageStatus, State


def test_a_job_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert records.load("default", "digits") is None
    status = JobStatus(
        phase=State.RUNNING, stages=(StageStatus(name="mixed", state=State.RUNNING),)
    )
    job = digits().model_copy(update={"status": status})
    records.save(job)
    assert records.load("default", "digits") == job
    assert [j.metadata.name for j in records.all()] == ["digits"]
    assert records.all("other") == []
    records.delete("default", "digits")
    assert records.all() == []


def test_a_broken_record_names_the_file_and_the_field(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.save(digits())
    path = tmp_path / "jobs" / "default" / "digits" / "job.json"
    path.write_text(path.read_text().replace('"batchSize": 128', '"batchSize": "many"'))
    with pytest.raises(
        ConfigurationError, match=r"job\.json: spec\.stages\.0\.pretrain\.batchSize"
    ):
        records.load("default", "digits")


def _hold(home: Path, held: object, release: object) -> None:
    with Records(home).lock("default", "digits"):
        held.set()  # type: ignore[attr-defined]
        release.wait(30)  # type: ignore[attr-defined]


def test_two_processes_never_run_one_job(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, held, release))
    other.start()
    records = Records(tmp_path)
    running = digits().model_copy(update={"status": JobStatus(phase=State.RUNNING)})
    records.save(running)
    try:
        assert held.wait(60)
        assert records.owner("default", "digits") == other.pid
        assert records.current("default", "digits") == running
        with pytest.raises(ConfigurationError, match=rf"another process .*\({other.pid}\)"):
            records.refuse_owned("default", "digits")
        with (
            pytest.raises(ConfigurationError, match="another process"),
            Records(tmp_path).lock("default", "digits"),
        ):
            pass
    finally:
        release.set()
        other.join()
    assert records.owner("default", "digits") is None
    records.refuse_owned("default", "digits")
    found = records.current("default", "digits")
    assert found is not None
    assert found.status is not None
    assert found.status.phase is State.FAILED
    assert records.load("default", "digits") == running
    with Records(tmp_path).lock("default", "digits"):
        assert records.owner("default", "digits") == os.getpid()


def test_a_home_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    records = Records(file)  # a file where a folder should be: fails for root as well
    with pytest.raises(TransientError, match="FLORENCE_HOME"):
        records.save(digits())
    with pytest.raises(ConfigurationError, match="FLORENCE_HOME"), records.lock("default", "x"):
        pass


def test_a_full_disk_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(tmp_path)
    records.save(digits())
    before = (tmp_path / "jobs/default/digits/job.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(TransientError, match="No space left"):
        records.save(digits().model_copy(update={"status": JobStatus()}))
    assert (tmp_path / "jobs/default/digits/job.json").read_bytes() == before

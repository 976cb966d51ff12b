"""Who waits in a collective, from the stacks of the ranks; their form is faulthandler's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from florence_jobs.evidence.stacks import Frame, blame, is_whole, main_thread, threads_of, where
from florence_operator.api.ranks import sentence

SITE = "/opt/venv/lib/python3.12/site-packages"
RUNPY = """  File "<frozen runpy>", line 88 in _run_code
  File "<frozen runpy>", line 198 in _run_module_as_main
"""
PROGRESS = """Thread 0x00007f1f2a7fe6c0 [progress] (most recent call first):
  File "/usr/lib/python3.12/threading.py", line 355 in wait
  File "/app/jobs/florence_jobs/progress.py", line 92 in _run

"""
WAITING = f"""{PROGRESS}Current thread 0x00007f1f3b0f5740 (most recent call first):
  File "{SITE}/torch/distributed/distributed_c10d.py", line 3104 in all_reduce
  File "{SITE}/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/app/florence/distributed/world.py", line 112 in _all_reduce
  File "/app/florence/distributed/world.py", line 54 in all_reduce_sum
  File "/app/florence/stages/trainer.py", line 221 in _count
{RUNPY}"""
READING = f"""{PROGRESS}Current thread 0x00007f1f3b0f5740 (most recent call first):
  File "/usr/lib/python3.12/ssl.py", line 1105 in read
  File "{SITE}/botocore/response.py", line 99 in read
  File "/home/me/florence/florence/data/shards.py", line 88 in read
  File "/app/florence/stages/trainer.py", line 150 in _step
{RUNPY}"""
GATHERING = f"""Thread 0x1 (most recent call first):
  File "{SITE}/torch/distributed/distributed_c10d.py", line 4000 in all_gather
  File "{SITE}/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "{SITE}/torch/distributed/distributed_c10d.py", line 3000 in all_gather_object
  File "{SITE}/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/app/florence/distributed/world.py", line 84 in all_gather_object
  File "/app/florence/checkpoint/save.py", line 7 in save
"""
FOREIGN = f"""Thread 0x1 (most recent call first):
  File "{SITE}/florence/tasks/thing.py", line 7 in go
  File "/srv/user.py", line 1 in <module>
"""


def test_the_rank_that_waits_for_no_collective_is_told_apart() -> None:
    stacks = dict.fromkeys(range(7), main_thread(WAITING)) | {7: main_thread(READING)}
    assert sentence(blame(stacks)) == (
        "ranks 0 to 6 wait in all_reduce (florence/stages/trainer.py:221 _count); "
        "rank 7 is in florence/data/shards.py:88 read"
    )


def test_a_rank_without_stacks_is_told_too() -> None:
    told = sentence(blame({0: main_thread(WAITING), 1: None}))
    assert told.endswith("; rank 1 gave no stacks")


def test_what_was_called_is_named_not_what_it_is_made_of() -> None:
    thread = main_thread(GATHERING)
    assert thread is not None
    assert where(thread.frames) == ("all_gather_object", "florence/checkpoint/save.py:7 save")


def test_an_installed_package_of_ours_is_ours() -> None:
    thread = main_thread(FOREIGN)
    assert thread is not None
    assert where(thread.frames) == (None, "florence/tasks/thing.py:7 go")


def test_a_users_own_code_is_told_before_what_it_calls() -> None:
    text = """Thread 0x1 (most recent call first):
  File "/usr/lib/python3.12/threading.py", line 355 in wait
  File "/srv/training.py", line 9 in reads
  File "<frozen runpy>", line 88 in _run_code
"""
    thread = main_thread(text)
    assert thread is not None
    assert where(thread.frames) == (None, "/srv/training.py:9 reads")
    assert where(thread.frames[:1]) == (None, "/usr/lib/python3.12/threading.py:355 wait")


@pytest.mark.parametrize(
    "path",
    [
        "/home/me/florence/.venv/lib/python3.12/site-packages/torch/nn/modules/module.py",
        "/home/me/florence/python3.12/threading.py",
    ],
)
def test_what_lies_in_a_folder_of_our_name_is_not_ours(path: str) -> None:
    assert not Frame(path, 1, "f").is_ours


def test_the_main_thread_is_the_one_named_or_the_last() -> None:
    assert [thread.ident for thread in threads_of(READING)] == [0x7F1F2A7FE6C0, 0x7F1F3B0F5740]
    last, first = main_thread(READING), main_thread(READING, 0x7F1F2A7FE6C0)
    assert last is not None
    assert last.current
    assert first is not None
    assert first.frames[-1].function == "_run"
    assert main_thread("Segmentation fault\n") is None
    assert where(()) == (None, None)


def test_long_places_are_cut() -> None:
    text = f'Thread 0x1 (most recent call first):\n  File "/{"d/" * 200}x.py", line 1 in deep\n'
    thread = main_thread(text)
    assert thread is not None
    place = where(thread.frames)[1] or ""
    assert len(place) == 120
    assert place.endswith("x.py:1 deep")


def test_a_stack_that_is_still_written_is_not_whole() -> None:
    ident = 0x7F1F3B0F5740
    assert is_whole(WAITING, ident)
    assert not is_whole(WAITING[: WAITING.index("Current")], ident)
    assert not is_whole(WAITING[:-3], ident)
    assert not is_whole("", ident)
    assert is_whole('Thread 0x1 (most recent call first):\n  File "a.py", line 1 in f\n  ...\n', 1)


def test_this_pythons_faulthandler_writes_what_is_read(tmp_path: Path) -> None:
    program = (
        "import faulthandler, os, signal, sys, threading\n"
        "file = open(sys.argv[1], 'w')\n"
        "faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)\n"
        "other = threading.Event()\n"
        "threading.Thread(target=other.wait, name='waits', daemon=True).start()\n"
        "def here(): os.kill(os.getpid(), signal.SIGUSR1)\n"
        "here()\n"
        "print(threading.main_thread().ident)\n"
    )
    out = tmp_path / "stacks"
    script = tmp_path / "script.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, str(script), str(out)], capture_output=True, text=True, check=True
    )
    text, ident = out.read_text(), int(done.stdout)
    assert is_whole(text, ident)
    assert len(threads_of(text)) == 2
    thread = main_thread(text, ident)
    assert thread is not None
    assert thread.current
    assert where(thread.frames) == (None, f"{script}:6 here")

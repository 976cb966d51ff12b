"""Run a program once per process of a node, as torchrun does, and keep its exit code.

torchrun itself ends with 1 whatever its processes said; whoever restarts a stage needs the code
of the process that failed first (the table is in :mod:`florence.errors`).
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence

import torch
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import launch_agent
from torch.distributed.run import config_from_args, parse_args

from florence.errors import StoppedError, TransientError
from florence_jobs.evidence.devices import recorder_defaults
from florence_jobs.log_tail import LOST_PEERS, killed
from florence_jobs.parent_watch import PARENT, watch_parent


def launch(arguments: Sequence[str]) -> int:
    """Run torchrun's command line and return the exit code of the first process that failed.

    Args:
        arguments: what torchrun takes; its ``PET_*`` environment variables hold as well.

    Returns:
        0 when every process ended with 0; 143 after SIGTERM or SIGINT; 128 + n for a process that
        signal n ended; 75 when the other nodes could not be reached.
    """
    options = parse_args(list(arguments))  # type: ignore[no-untyped-call]
    if options.standalone:  # what torchrun itself does with it: a rendezvous of one node
        options.rdzv_backend, options.rdzv_endpoint = "c10d", "localhost:0"
        options.rdzv_id = str(uuid.uuid4())
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    # torch makes such a folder itself, for what failed processes say of themselves, and leaves it.
    with tempfile.TemporaryDirectory(prefix="florence-launch-") as folder:
        options.log_dir = options.log_dir or folder
        return _launch(options)


def _launch(options: argparse.Namespace) -> int:
    config, command, command_arguments = config_from_args(options)
    try:
        launch_agent(config, command, list(command_arguments))
    except ChildFailedError as failure:
        rank, first = first_failure(failure.failures)
        if first.exitcode >= 0:
            return first.exitcode
        print(f"[rank {rank}] ERROR {killed(f'rank {rank}', -first.exitcode)}", file=sys.stderr)
        return 128 - first.exitcode
    except SignalException:
        return StoppedError.exit_code
    except UnboundLocalError as error:
        # torch's timing of its own calls trips over a signal that comes before it has begun.
        if not isinstance(error.__context__, SignalException):
            raise
        return StoppedError.exit_code
    except (RendezvousError, DistError) as error:
        print(f"[rank -1] ERROR {LOST_PEERS} ({error}); try again", file=sys.stderr)
        return TransientError.exit_code
    return 0


def first_failure(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """The rank that failed first; of those within the same second, one that was killed.

    torch notes whole seconds, and then ends the others by SIGTERM, or they notice by themselves.
    """
    by_themselves = (-signal.SIGTERM, *range(256))
    return min(
        failures.items(), key=lambda item: (item[1].timestamp, item[1].exitcode in by_themselves)
    )


def _stop() -> None:
    """Ask the processes to stop as whoever started this one would have."""
    print("[rank -1] WARNING The process that started the stage is gone: stopping", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    watch_parent(_stop)
    os.environ[PARENT] = str(os.getpid())
    if torch.cuda.is_available():
        os.environ |= recorder_defaults(os.environ)
    sys.exit(launch(sys.argv[1:]))

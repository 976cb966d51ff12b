"""Run a program once per process of a node, as torchrun does, and keep its exit code.

torchrun itself ends with 1 whatever its processes said; whoever restarts a stage needs the code
of the process that failed first (the table is in :mod:`florence.errors`).
"""

from __future__ import annotations

import logging
import sys
import uuid
from collections.abc import Sequence

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import launch_agent
from torch.distributed.run import config_from_args, parse_args

from florence.errors import StoppedError, TransientError
from florence_jobs.log_tail import LOST_PEERS


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
    config, command, command_arguments = config_from_args(options)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        launch_agent(config, command, list(command_arguments))
    except ChildFailedError as failure:
        _, first = failure.get_first_failure()
        return first.exitcode if first.exitcode >= 0 else 128 - first.exitcode
    except SignalException:
        return StoppedError.exit_code
    except (RendezvousError, DistError) as error:
        print(f"[rank -1] ERROR {LOST_PEERS} ({error}); try again", file=sys.stderr)
        return TransientError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))

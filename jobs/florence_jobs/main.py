"""One process of one stage: read the plan, run the stage, exit with a code that says how it went.

python -m florence_jobs.main stage.json        # under torchrun or florence_jobs.launch
"""

from __future__ import annotations

import errno
import logging
import os
import pkgutil
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path

from florence.config.progress import StageProgress
from florence.errors import (
    ConfigurationError,
    FlorenceError,
    LostPeersError,
    MissingExtraError,
    NoSpaceError,
    StoppedError,
    TransientError,
)
from florence.kinds import kind_named
from florence.stages.context import InputModel, StageContext, Stop
from florence_jobs.evidence.rank import offer_stacks
from florence_jobs.log_tail import LOST_PEERS
from florence_jobs.out_of_memory import advice, available_memory, is_out_of_memory
from florence_jobs.parent_watch import watch_parent
from florence_jobs.plan_file import PROGRESS_FILE, read_plan
from florence_jobs.registry.references import is_reference
from florence_operator.api.stage import StagePlan

log = logging.getLogger("florence")


COLLECTIVE_TIMEOUT_SECONDS = 600.0
"""After this long without an answer the other processes are taken for lost."""
FAILED = 1
_MACHINE_FAILED = {
    *(errno.EIO, errno.ENODEV, errno.ESTALE),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT),
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE),
}
"""OSErrors that another try elsewhere or later may not meet; a missing file stays missing."""
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


def main(arguments: list[str]) -> int:
    """Run the stage of a plan file in this process and return its exit code."""
    rank = int(os.environ.get("RANK", "0"))
    logging.basicConfig(
        level=logging.INFO,
        format=f"%(asctime)s [rank {rank}] %(levelname)s %(message)s",
        stream=sys.stderr,
        force=True,
    )
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it tells where credentials are from
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.request)
    signal.signal(signal.SIGINT, stop.request)
    plan = None
    try:
        plan = read_plan(Path(arguments[0]))
        watch_parent(partial(_stop_alone, stop, plan.grace_seconds))
        run(plan, stop)
    except LostPeersError as error:
        log.info("%s", traceback.format_exc().rstrip())  # where it waited, for whoever looks closer
        log.error("%s (%s); try again", LOST_PEERS, error)
        return error.exit_code
    except MissingExtraError as error:  # the settings ask for what is not installed here
        log.error("%s", error)
        return ConfigurationError.exit_code
    except FlorenceError as error:
        log.error("%s", error)
        return error.exit_code
    except Exception as error:
        return _unexpected(error, plan)
    return 0


def run(plan: StagePlan, stop: Stop) -> None:
    """Run the plan's stage as this process's rank of its gang."""
    from florence.distributed.world import collective_errors, join, leave
    from florence.storage import open_storage
    from florence_jobs.progress import ProgressReporter
    from florence_jobs.tracking.making import make_recorder

    world = join(COLLECTIVE_TIMEOUT_SECONDS)
    plan = world.on_first(partial(_with_pinned_model, plan))
    output = open_storage(plan.output, plan.storage)
    recorder = make_recorder(plan, world, output)
    reporter = None
    if plan.progress and world.rank == 0:
        record = os.environ.get(PROGRESS_FILE)
        reporter = ProgressReporter(plan.progress, plan, record=Path(record) if record else None)
    context = StageContext(
        architecture=plan.model.architecture(),
        output=output,
        input_model=_input_model(plan),
        s3=plan.storage,
        attempt=plan.attempt,
        provenance={"namespace": plan.namespace, "job": plan.job, "stage": plan.stage},
        world=world,
        recorder=recorder,
        report=reporter.report if reporter else _silent,
        clock=time.time,
        stop=stop,
    )
    status, problem = "FAILED", None
    try:
        with collective_errors("the stage"):
            _run_stage(plan, context)
        status = "FINISHED"
    except FlorenceError as error:
        status = "KILLED" if isinstance(error, StoppedError) else "FAILED"
        problem = str(error)
        raise
    except Exception as error:
        problem = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise
    finally:
        recorder.close(status, problem)
        if reporter:
            reporter.close()
        leave()


def _input_model(plan: StagePlan) -> InputModel | None:
    uri = plan.inputs.checkpoint or plan.inputs.model
    if uri and is_reference(uri):
        from florence_jobs.registry.resolving import located

        uri = located(uri, plan.storage, store=_mlflow_of(plan))
    return InputModel(uri, plan.storage) if uri else None


def _with_pinned_model(plan: StagePlan) -> StagePlan:
    """The plan with the version that an alias of MLflow's registry stands for now."""
    if not is_reference(plan.inputs.model or ""):
        return plan
    from florence_jobs.registry.resolving import pinned

    model = pinned(plan.inputs.model or "", store=_mlflow_of(plan))
    log.info("%s is %s", plan.inputs.model, model)
    inputs = plan.inputs.model_copy(update={"model": model})
    return plan.model_copy(update={"inputs": inputs})


def _mlflow_of(plan: StagePlan) -> str | None:
    return plan.tracking.mlflow_uri if plan.tracking is not None else None


def _run_stage(plan: StagePlan, context: StageContext) -> None:
    kind = kind_named(plan.kind)
    pkgutil.resolve_name(kind.run)(context, plan.config, kind)


def _silent(_: StageProgress) -> None:
    """Progress of ranks other than 0 interests nobody."""


def _stop_alone(stop: Stop, grace: float) -> None:
    """Stop as if asked to, since the launcher is gone; after ``grace`` seconds whatever happens."""
    log.warning("The launcher is gone: stopping after a checkpoint")
    stop.request()
    time.sleep(grace)
    log.error("Ended: no checkpoint within %g s after the launcher was gone", grace)
    os._exit(StoppedError.exit_code)


def _unexpected(error: Exception, plan: StagePlan | None) -> int:
    """Log an error nobody foresaw. Only this machine's or its network's own failures may pass."""
    log.error("%s", traceback.format_exc().rstrip())
    text = str(error).partition("\n")[0]
    if is_out_of_memory(error):
        log.error("Out of memory: %s", _memory_advice(plan, text))
        return ConfigurationError.exit_code
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        where = error.filename or "the disk of temporary files or of FLORENCE_HOME"
        log.error("%s cannot be written (%s): free space there", where, text)
        return NoSpaceError.exit_code
    if isinstance(error, OSError) and error.errno in _MACHINE_FAILED:
        log.error("This machine or its network failed (%s); try again", text)
        return TransientError.exit_code
    log.error("Unexpected %s: %s", type(error).__name__, text)
    return FAILED


def _memory_advice(plan: StagePlan | None, text: str) -> str:
    """What the planner says, or where it cannot what the error does."""
    try:
        assert plan is not None
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        return advice(plan, available_memory(), processes=processes)
    except Exception as error:  # there may be no memory left for it
        log.warning("No estimate of the memory: %s: %s", type(error).__name__, error)
        return f"{text}: lower the stage's batchSize or resolution"


if __name__ == "__main__":
    stacks = offer_stacks()
    code = main(sys.argv[1:])
    stacks.close(code)
    logging.shutdown()
    sys.stdout.flush()
    # Not sys.exit: threads of libraries (DataLoader, MLflow, NCCL) must not hold a finished stage.
    os._exit(code)

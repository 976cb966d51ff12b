"""Which failures of collectives mean that another process is lost, told by where they come from.

torch reports a lost peer as a class of its own (NCCL, the store) or as a plain RuntimeError (gloo,
also out of DDP's backward pass). Gloo's transport writes its own file in front of what it says;
what torch or gloo say about wrong arguments comes from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from florence.errors import LostPeersError

_GLOO_TRANSPORT = re.compile(r"\[\S*gloo/(transport|rendezvous)/\S+:\d+\]")
_NCCL_OTHER_FAULTS = re.compile(
    # By NCCL's own names of its result codes: the call was wrong, or this process's GPU failed.
    r"ncclInvalid(Usage|Argument)|invalid (usage|argument)|ncclUnhandledCudaError"
    r"|unhandled cuda error"
)
_LONGEST_REASON = 300


@contextmanager
def collective_errors(during: str = "a collective") -> Iterator[None]:
    """Turn failures of collectives called within into :class:`LostPeersError`; leave all others.

    Wraps whatever talks to other processes, such as an engine's step: of the errors that pass
    through, only those are changed that a distributed backend raises because a peer or the network
    is lost. Wrong arguments of collectives, broken GPUs, OSErrors and bugs stay what they are.
    ``during`` tells in the message what was being done.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_lost_peer(error):
            raise
        raise LostPeersError(f"during {during}: {first_line(error)}") from error


def is_lost_peer(error: BaseException) -> bool:
    """Whether a distributed backend raised this because a peer or the network is lost."""
    if isinstance(error, dist.DistBackendError):
        return not _NCCL_OTHER_FAULTS.search(str(error))
    if isinstance(error, dist.DistNetworkError | dist.DistStoreError):
        return True
    # Exactly RuntimeError: torch's others, such as OutOfMemoryError, are subclasses.
    return type(error) is RuntimeError and bool(_GLOO_TRANSPORT.search(str(error)))


def first_line(error: BaseException) -> str:
    """What an error says, in one line that a log can show."""
    lines = str(error).splitlines()
    return lines[0][:_LONGEST_REASON] if lines else type(error).__name__

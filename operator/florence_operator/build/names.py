"""Names of what is made for a job: DNS-1035 labels, short enough for what is appended."""

from __future__ import annotations

import hashlib

from florence_operator.api.child_kinds import PYTORCH_JOB, ChildKind

_LONGEST_NAME = PYTORCH_JOB.longest_name


def child_name(job: str, stage: str, attempt: int, kind: ChildKind = PYTORCH_JOB) -> str:
    """``<job>-<stage>-<hash>-a<attempt>``: a DNS-1035 label, shortened where it is too long.

    The hash is of both names: stage ``c`` of job ``a-b`` is not stage ``b-c`` of job ``a``; of
    another kind than PyTorchJob it is of the kind too, so that no two children have one name.
    """
    whole = f"{job}/{stage}" if kind is PYTORCH_JOB else f"{kind.name}/{job}/{stage}"
    return _name(f"{job}-{stage}", f"-{_digest(whole)}-a{attempt}", kind.longest_name)


def removal_name(job: str) -> str:
    """Name of the Job that deletes a job's artifacts."""
    return _name(job, "-removal", _LONGEST_NAME)


def _name(body: str, suffix: str, longest: int) -> str:
    whole = body if body[0].isalpha() else f"fj-{body}"
    if len(whole) + len(suffix) > longest:
        digest = _digest(whole)
        kept = whole[: longest - len(suffix) - len(digest) - 1].rstrip("-")
        whole = f"{kept}-{digest}"
    return whole + suffix


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]

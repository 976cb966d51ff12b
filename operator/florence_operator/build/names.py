"""Names of what is made for a job: DNS-1035 labels, short enough for what is appended."""

from __future__ import annotations

import hashlib

LONGEST_NAME = 51
"""Training Operator appends ``-worker-<index>`` and makes Services of these names: 63 in all."""


def child_name(job: str, stage: str, attempt: int) -> str:
    """``<job>-<stage>-<hash>-a<attempt>``: a DNS-1035 label, shortened where it is too long.

    The hash is of both names: stage ``c`` of job ``a-b`` is not stage ``b-c`` of job ``a``.
    """
    return _name(f"{job}-{stage}", f"-{_digest(f'{job}/{stage}')}-a{attempt}")


def removal_name(job: str) -> str:
    """Name of the Job that deletes a job's artifacts."""
    return _name(job, "-removal")


def _name(body: str, suffix: str) -> str:
    whole = body if body[0].isalpha() else f"fj-{body}"
    if len(whole) + len(suffix) > LONGEST_NAME:
        digest = _digest(whole)
        kept = whole[: LONGEST_NAME - len(suffix) - len(digest) - 1].rstrip("-")
        whole = f"{kept}-{digest}"
    return whole + suffix


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]

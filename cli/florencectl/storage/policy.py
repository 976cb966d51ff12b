"""What a namespace may do in a shared bucket, as documents that S3 servers take."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from florence.errors import ConfigurationError

Document = dict[str, Any]

STALE_DAYS = 1
"""Days after which an upload that never ended is removed; a save takes minutes."""

_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_PLAIN = re.compile(r"[A-Za-z0-9._/-]+")

_OWN = (
    "s3:AbortMultipartUpload",
    "s3:DeleteObject",
    "s3:GetObject",
    "s3:ListMultipartUploadParts",
    "s3:PutObject",
)


@dataclass(frozen=True, slots=True)
class Grant:
    """A namespace's place in a bucket.

    Attributes:
        bucket: its name.
        base: the prefix that is ``artifacts.uri`` without the bucket; may be empty.
        namespace: whose folder below it is granted.
        shared: prefixes of the bucket that may be read, such as those of training data.
    """

    bucket: str
    base: str
    namespace: str
    shared: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAMESPACE.fullmatch(self.namespace):
            raise ConfigurationError(
                f"'{self.namespace}' is no name of a namespace: use lower case letters, digits, -"
            )
        for prefix in filter(None, (self.base, *self.shared)):
            # A policy reads *, ? and ${ as patterns.
            if not _PLAIN.fullmatch(prefix) or prefix != prefix.strip("/"):
                raise ConfigurationError(
                    f"'{prefix}' cannot be a prefix in a policy: use letters, digits, . _ - and /"
                )
        below = f"{self.base}/" if self.base else ""
        for prefix in self.shared:
            if f"{prefix}/".startswith(below) or below.startswith(f"{prefix}/"):
                raise ConfigurationError(
                    f"'{prefix}' cannot be read by all: folders of namespaces are there; keep data "
                    f"beside them, not in s3://{self.bucket}/{self.base}"
                )

    @property
    def prefix(self) -> str:
        """The folder that the namespace may write, without a slash at its end."""
        return "/".join(part for part in (self.base, self.namespace) if part)

    @property
    def user(self) -> str:
        """The name of the user and of the policy: the same for the same folder, and its alone."""
        digest = hashlib.sha256(f"{self.bucket}/{self.prefix}".encode()).hexdigest()
        return f"{self.namespace}-{digest[:8]}"

    @property
    def summary(self) -> str:
        """What it allows, in words."""
        read = "".join(f", reads {prefix}/" for prefix in self.shared)
        return f"reads and writes {self.prefix}/{read}"


def policy(grant: Grant) -> Document:
    """The least that jobs of a namespace need: their folder, and the shared data to read.

    The right to list uploads that never ended cannot be held to a prefix, so it is not in it; the
    bucket's rule for them needs none.
    """
    bucket = f"arn:aws:s3:::{grant.bucket}"
    listed = [f"{prefix}/*" for prefix in (grant.prefix, *grant.shared)]
    statements: list[Document] = [
        {
            "Sid": "List",
            "Effect": "Allow",
            "Action": ["s3:ListBucket"],
            "Resource": [bucket],
            "Condition": {"StringLike": {"s3:prefix": listed}},
        },
        {
            "Sid": "Own",
            "Effect": "Allow",
            "Action": list(_OWN),
            "Resource": [f"{bucket}/{grant.prefix}/*"],
        },
    ]
    if grant.shared:
        statements.append(
            {
                "Sid": "Shared",
                "Effect": "Allow",
                "Action": ["s3:GetObject"],
                "Resource": [f"{bucket}/{prefix}/*" for prefix in grant.shared],
            }
        )
    return {"Version": "2012-10-17", "Statement": statements}


def same_policy(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two documents say the same, in whatever order servers give it back."""
    return bool(_normal(one) == _normal(other))


def _normal(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _normal(each) for key, each in value.items() if key != "Sid"}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return sorted((_normal(each) for each in value), key=repr)
    return [value] if isinstance(value, str) else value


def grants(bucket: str, base: str, namespaces: Iterable[str], shared: Iterable[str]) -> list[Grant]:
    """A place for each namespace; each once.

    Raises:
        ConfigurationError: a name or a prefix cannot be one.
    """
    read = tuple(sorted({prefix.strip("/") for prefix in shared}))
    return [Grant(bucket, base, each, read) for each in dict.fromkeys(namespaces)]

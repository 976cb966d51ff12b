"""What the API server answers when it does not do what it is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SILENT = "Silent"
"""Reason of an error, with status 0: a watch that had begun said nothing for too long."""


class ApiError(Exception):
    """A refusal by the API server, or, with status 0, no answer from it."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.details: dict[str, Any] = dict(details or {})
        self.retry_after = retry_after

    @property
    def unreachable(self) -> bool:
        """Whether there was no answer at all; what was asked may have been done all the same."""
        return self.status == 0

    @property
    def silent(self) -> bool:
        """Whether it is a watch that nobody said anything in: its connection may be dead."""
        return self.status == 0 and self.reason == SILENT

    @property
    def not_found(self) -> bool:
        """Whether there is no such object, or no such kind."""
        return self.status == 404

    @property
    def conflict(self) -> bool:
        """Whether somebody else was faster, including an object that exists already."""
        return self.status == 409

    @property
    def already_exists(self) -> bool:
        """Whether an object of that name exists."""
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def gone(self) -> bool:
        """Whether the server has forgotten the version or the list that was asked for."""
        return self.status == 410

    @property
    def forbidden(self) -> bool:
        """Whether we may not do that."""
        return self.status == 403

    @property
    def unauthorized(self) -> bool:
        """Whether the server does not know who we are."""
        return self.status == 401


def error_of(
    status: Mapping[str, Any],
    where: str,
    *,
    code: int | None = None,
    retry_after: float | None = None,
) -> ApiError:
    """The error that a Status object tells of; ``where`` is the request."""
    number = int(status.get("code") or code or 500)
    details = status.get("details")
    details = details if isinstance(details, Mapping) else {}
    if retry_after is None and details.get("retryAfterSeconds"):
        retry_after = float(details["retryAfterSeconds"])
    reason = str(status.get("reason") or f"HTTP{number}")
    message = f"{where}: {status.get('message') or f'the API server answered {number}'}"
    return ApiError(number, reason, message, details=details, retry_after=retry_after)

"""What goes wrong between a user and a cluster, each with its exit code."""

from __future__ import annotations

import re
from typing import Any

from florence.errors import FlorenceError
from florencectl.program import program_name

FAILED, USAGE, NOT_FOUND, NOT_AUTHORISED, TIMED_OUT = 1, 2, 3, 4, 5

_REQUEST = re.compile(r"^(GET|POST|PUT|PATCH|DELETE|WATCH) /\S+: ")


class NotFoundError(FlorenceError):
    """There is no such job, pod or file."""

    exit_code = NOT_FOUND


def told(error: Any) -> tuple[list[str], int]:
    """The lines that tell a refusal of the API server in its own words, and the exit code."""
    words = server_words(error)
    if error.status == 0:
        return [
            f"the API server did not answer: {words}: check the network, --context and --kubeconfig"
        ], FAILED
    if error.status == 401:
        return [
            f"the cluster does not know who you are: {words}: log in again, or choose another "
            "--context"
        ], NOT_AUTHORISED
    if is_refusal(error):
        return _findings(error) or [words], USAGE
    if lacks_webhook(error):
        return [
            f"the operator's webhook does not answer: {words}: '{program_name()} doctor' checks "
            "the operator"
        ], FAILED
    if error.status == 403:
        return [
            f"not allowed: {words}: ask whoever runs the cluster for that right "
            f"('{program_name()} doctor' lists what is missing)"
        ], NOT_AUTHORISED
    if error.status == 404:
        if lacks_kind(error):
            return [
                f"this cluster does not know what was asked for ({words}): is the FlorenceJob "
                f"operator installed? '{program_name()} doctor' checks it"
            ], FAILED
        return [words], NOT_FOUND
    return [words], FAILED


def server_words(error: Any) -> str:
    """What the server said, without the request that it said it to."""
    return _REQUEST.sub("", str(error.message)).strip() or f"HTTP status {error.status}"


def is_refusal(error: Any) -> bool:
    """Whether the server, or its admission webhook, found the object itself to be wrong."""
    return error.status in (400, 422) or (
        error.status == 403 and "denied the request" in str(error.message)
    )


def lacks_webhook(error: Any) -> bool:
    """Whether nobody has looked at the object, because a webhook could not be reached."""
    return error.status >= 500 and "failed calling webhook" in str(error.message)


def lacks_kind(error: Any) -> bool:
    """Whether the server knows no such kind of object, not just no object of that name."""
    named = error.details.get("name") or '" not found' in str(error.message)
    return error.status == 404 and not named


def _findings(error: Any) -> list[str]:
    causes = error.details.get("causes") or []
    return [
        f"{cause['field']}: {cause.get('message', '')}" for cause in causes if cause.get("field")
    ]

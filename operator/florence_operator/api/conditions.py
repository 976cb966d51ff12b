"""Conditions in Kubernetes' form: one of each type, with the time of its last change of status."""

from __future__ import annotations

from florence_operator.api.status import Condition

MESSAGE_LIMIT = 1024


def set_condition(
    conditions: tuple[Condition, ...],
    *,
    type: str,  # noqa: A002 - the field's own name
    status: bool | None,
    reason: str,
    message: str,
    generation: int,
    now: str,
) -> tuple[Condition, ...]:
    """The conditions with one set, in their order; ``status`` None is Unknown.

    ``lastTransitionTime`` moves only when the status does.
    """
    word = {True: "True", False: "False", None: "Unknown"}[status]
    old = find_condition(conditions, type)
    new = Condition(
        type=type,
        status=word,
        reason=reason,
        message=shortened(message),
        last_transition_time=old.last_transition_time if old and old.status == word else now,
        observed_generation=generation,
    )
    if old is None:
        return (*conditions, new)
    return tuple(new if condition.type == type else condition for condition in conditions)


def find_condition(conditions: tuple[Condition, ...], type: str) -> Condition | None:  # noqa: A002
    """The condition of a type."""
    return next((condition for condition in conditions if condition.type == type), None)


def shortened(message: str, limit: int = MESSAGE_LIMIT) -> str:
    """The message in at most ``limit`` characters; an ellipsis says that there was more."""
    return message if len(message) <= limit else message[: limit - 1] + "…"

"""Admission reviews: what the API server asks, and the form of the answer; no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# The API server cuts warnings that are longer, and drops them above 4096 in all.
WARNING_LENGTH = 256
WARNINGS = 16

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AdmissionAnswer:
    """Whether an object may be written, why not, and what its writer should know."""

    allowed: bool
    message: str = ""
    warnings: tuple[str, ...] = ()


Validate = Callable[[Document], AdmissionAnswer]


def answer_review(body: bytes, validate: Validate) -> Document:
    """The AdmissionReview that answers one.

    Raises:
        ValueError: the body is none.
    """
    try:
        review = json.loads(body)
    except ValueError as error:
        raise ValueError(f"the body is not JSON: {error}") from None
    request = review.get("request") if isinstance(review, dict) else None
    if not isinstance(request, dict) or not isinstance(request.get("uid"), str):
        raise ValueError("the body is no AdmissionReview: request.uid is missing")
    version = review.get("apiVersion")
    if version != "admission.k8s.io/v1" or review.get("kind") != "AdmissionReview":
        raise ValueError(f"the body is a {review.get('kind')} of {version}, not an AdmissionReview")
    answer = validate(request)
    response: Document = {"uid": request["uid"], "allowed": answer.allowed}
    if answer.message:
        code, reason = (200, "") if answer.allowed else (422, "Invalid")
        response["status"] = {"code": code, "reason": reason, "message": answer.message}
    if answer.warnings:
        response["warnings"] = [text[:WARNING_LENGTH] for text in answer.warnings[:WARNINGS]]
    return {"apiVersion": version, "kind": "AdmissionReview", "response": response}

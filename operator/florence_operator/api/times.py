"""Moments as Kubernetes writes them."""

from __future__ import annotations

from datetime import UTC, datetime


def unix(timestamp: str | None) -> float | None:
    """Unix seconds of a Kubernetes timestamp."""
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else None


def timestamp(seconds: float) -> str:
    """A moment as Kubernetes writes it, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

"""``florencectl version``."""

from __future__ import annotations

from importlib.metadata import version as version_of


def version() -> None:
    """Print the version."""
    print(version_of("florence"))

"""What the settings of every kind of stage have in common."""

from __future__ import annotations

from florence.config.base import Settings


class StageSettings(Settings):
    """The settings of a stage, whatever its kind."""

    @property
    def planned_steps(self) -> int | None:
        """Optimizer steps, where the settings alone decide them; ``None`` elsewhere."""
        return None

    def check_processes(self, processes: int) -> None:
        """Refuse settings that this many processes cannot share.

        Raises:
            SettingError: which field does not fit, and what would.
        """

    def most_processes(self, available: int) -> int:
        """The largest number of processes up to ``available`` that can share the stage."""
        return available

"""What can go wrong in a stage, and the exit code that says so.

The codes are a contract between a stage and whoever restarts it: 2, 3 and 4 need somebody to
change something first and are not retried, 75 and 143 are the infrastructure's.
"""

from __future__ import annotations


class FlorenceError(Exception):
    """A failure the user can act on: the message says what, where and what to do."""

    exit_code = 1


class ConfigurationError(FlorenceError):
    """A setting is wrong or contradicts another; the message names its field path."""

    exit_code = 2


class SettingError(ConfigurationError):
    """One setting is wrong.

    Attributes:
        field: its path in the settings that were checked, such as ``batchSize``.
        value: what it is.
        found: what is wrong with it and what would be right.
    """

    def __init__(self, field: str, value: object, found: str) -> None:
        self.field, self.value, self.found = field, value, found
        super().__init__(f"{field}={value} {found}")

    def __reduce__(self) -> tuple[type[SettingError], tuple[str, object, str]]:
        return type(self), (self.field, self.value, self.found)


class DataError(FlorenceError):
    """Data is missing or unusable; the message names the URI."""

    exit_code = 3


class DivergedError(FlorenceError):
    """The loss or the gradients stopped being finite; the message names the step."""

    exit_code = 4


class TransientError(FlorenceError):
    """Storage or network gave up; the same attempt may succeed later."""

    exit_code = 75


class NoSpaceError(TransientError):
    """A disk or bucket is full: only once somebody freed space does the same attempt succeed.

    Whoever goes on meanwhile, as training does when a checkpoint fails, may try again; a stage that
    ends with it is not restarted.
    """

    exit_code = ConfigurationError.exit_code


class LostPeersError(TransientError):
    """Another process of the gang is gone or silent; this one only waited for it."""


class StoppedError(FlorenceError):
    """The stage was asked to stop and did so after a checkpoint."""

    exit_code = 143


class MissingExtraError(FlorenceError):
    """A command needs packages that an extra of the distribution installs."""

    exit_code = 1

    def __init__(self, module: str, extra: str) -> None:
        self.module, self.extra = module, extra
        super().__init__(
            f"this needs the package '{module}', which is not installed: pip install "
            f"'florence[{extra}]'"
        )

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.module, self.extra)

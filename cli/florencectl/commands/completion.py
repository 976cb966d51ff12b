"""``florencectl completion SHELL``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Shell(StrEnum):
    """The shells whose completion is known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(help="The shell the script is for.")],
) -> None:
    """Print the completion script of a shell.

    In bash: source <(florencectl completion bash)
    """
    from typer.completion import (  # type: ignore[attr-defined]  # no __all__
        get_completion_script,
    )

    print(
        get_completion_script(
            prog_name="florencectl", complete_var="_FLORENCECTL_COMPLETE", shell=shell.value
        )
    )

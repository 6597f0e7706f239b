"""Shell completion: the script of each shell."""

from enum import StrEnum

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]  # typer's own, re-exported there


class Shell(StrEnum):
    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Shell) -> None:
    """Print what makes a shell complete commands, options and job ids.

    bash: add eval "$(tunepool completion bash)" to ~/.bashrc

    zsh: add eval "$(tunepool completion zsh)" to ~/.zshrc, after compinit

    fish: tunepool completion fish > ~/.config/fish/completions/tunepool.fish
    """
    typer.echo(get_completion_script(prog_name="tunepool", complete_var="_TUNEPOOL_COMPLETE", shell=shell.value))

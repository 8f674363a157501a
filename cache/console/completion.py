"""Completion in bash, zsh and fish, by click: the scripts, and the answer when a shell asks for the next word.

A shell asks at every Tab: what is imported for the answer are click and the modules of the command at hand.
"""

from __future__ import annotations

import os

import click

from crossllm.cache.console.messages import show_errors

PROGRAMS = ("crossllm", "embed", "train")
SHELLS = ("bash", "zsh", "fish")


def _variable(program: str) -> str:
    """Of the environment, in which a script says that it asks for the next word."""
    return f"_{program.upper()}_COMPLETE"


def completion_script(shell: str) -> str:
    """What the shell is to read: the completion of all our programs.

    Args:
        shell: one of `SHELLS`.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, shell
    # Not `source()`: that of bash runs the first bash on PATH and warns of its age, whichever will read the script.
    made = [kind(click.Command(name), {}, name, _variable(name)) for name in PROGRAMS]
    return "\n".join(one.source_template % one.source_vars() for one in made)


def answer_shell(command: click.Command) -> int | None:
    """Print the words that may come next, where a shell's script asks for them; the exit code, None: nobody asks."""
    program = str(command.name)
    asked = os.environ.get(_variable(program))
    if not asked:
        return None
    from click.shell_completion import shell_complete

    if shell_complete(command, {"help_option_names": ["-h", "--help"]}, program, _variable(program), asked):
        show_errors([f"{_variable(program)}: is for the scripts of `crossllm completion`; unset it"])
        return 2
    return 0

"""The one place where errors become one-line messages and exit codes (DESIGN: 0 2 3 4 5 6 130 143; 1 is our bug)."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

import click

from crossllm.cache.console.completion import answer_shell
from crossllm.cache.console.messages import note, show_errors
from crossllm.cache.errors import CrossLLMError

_PATH_ERRORS = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EISDIR,
    }
)


_ENOUGH = 1 << 34
"""Bytes of address space with which every library loads, that of a GPU too."""


class Terminated(BaseException):
    """SIGTERM arrived.  A BaseException, so that no `except Exception` swallows it before a writer has committed."""


HEARD = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
"""Signals that end the work.  Batch systems send SIGUSR1 some time before the end of the time (`sbatch --signal`); it
is taken as SIGTERM, so that a job ends with one code, 143, for which it is queued again."""
_LEFT = {
    signal.SIGINT: "interrupted; what was committed before stays",
    signal.SIGTERM: "terminated; what was committed before stays",
}
"""Signal → what is said when it ended the work."""
_RESUME = "; the same command with --resume goes on"


_RESUMED = ("train", "predict", "screen")
"""Commands that are continued with --resume; all others by themselves."""


def _resumes(command: click.Command, given: Sequence[str]) -> bool:
    """Whether the command is one of `_RESUMED`."""
    name = next(iter(given), None) if command.name == "crossllm" else command.name
    return name in _RESUMED


def _hear(number: int, frame: FrameType | None) -> NoReturn:
    """Raise for a signal; leave at once while a module loads, where libraries swallow or replace what is raised."""
    taken_as = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
    if _loading(frame):
        try:
            note(_LEFT[taken_as])
        finally:
            os._exit(128 + taken_as)
    raise KeyboardInterrupt if taken_as == signal.SIGINT else Terminated


def _loading(frame: FrameType | None) -> bool:
    """Whether the command, as far as it has come, is in the middle of an import."""
    while frame is not None and frame.f_code is not _run.__code__:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def run(command: click.Command, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a click command as a program: parse, run, and exit with the code of DESIGN section 1."""
    for known in HEARD:
        if known == signal.SIGTERM or signal.getsignal(known) is not signal.SIG_IGN:  # a shell's job in the background
            signal.signal(known, _hear)
    _allow_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without '→' shows its escape
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _show_warning
    asked = answer_shell(command) if arguments is None else None
    sys.exit(_run(command, arguments) if asked is None else asked)


_shown_by_python = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning of ours is a note, on one line; those of libraries stay as they are."""
    if category.__module__.partition(".")[0] == "crossllm":
        note(f"note: {message}")
    else:
        _shown_by_python(message, category, *where, **more)


def _allow_descriptors() -> None:
    """As many open files as the system lets this user have: a reader holds one for each segment it reads."""
    with suppress(ImportError, ValueError, OSError):  # Windows has none of this
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _run(command: click.Command, arguments: Sequence[str] | None) -> int:
    try:
        return _outcome(command, arguments)
    except Exception as error:
        from crossllm.cache.console.environment import import_problem

        if (problem := import_problem(error)) is None:
            raise
        show_errors([problem])
        return 2


def _outcome(command: click.Command, arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    resumes = _resumes(command, given)
    try:
        # Not command.main(): it would turn a closed pipe into exit code 1.
        with command.make_context(command.name, given, help_option_names=["-h", "--help"]) as context:
            command.invoke(context)
        if sys.stdout is not None:  # closed by the caller: `>&-`
            sys.stdout.flush()
        return 0
    except click.exceptions.Exit as done:  # --help
        return done.exit_code
    except CrossLLMError as error:
        show_errors(error.lines)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:  # a group without a command: its commands are the answer
        click.echo(error.message)
        return 0
    except click.ClickException as error:
        show_errors([_usage_line(error)])
        return 2
    except (KeyboardInterrupt, click.Abort):
        note(_LEFT[signal.SIGINT] + _RESUME * resumes)
        return 128 + signal.SIGINT
    except Terminated:
        note(_LEFT[signal.SIGTERM] + _RESUME * resumes)
        return 128 + signal.SIGTERM
    except MemoryError:
        return _out_of_memory()
    except RuntimeError as error:
        # torch has no error class of its own for the CPU allocator, and is not imported here.
        said = str(error)
        if "can't allocate memory" in said or "out of memory" in said or "can't start new thread" in said:
            return _out_of_memory()
        if _could_not_load(error):
            return _out_of_memory()
        raise
    except OSError as error:
        if _could_not_load(error):
            return _out_of_memory()
        return _os_error(error, "run it again with --resume" if resumes else "run the same command again")
    except (ImportError, SystemError) as error:
        if _could_not_load(error):
            return _out_of_memory()
        raise


def _could_not_load(error: BaseException) -> bool:
    """Whether a library failed to load where the address space is bounded: each says it in its own words, or in none.

    A library may also come to be loaded in the middle of the work, at its first use.
    """
    from crossllm.cache.console.machine import address_space

    most = address_space()
    if most is None or most > _ENOUGH:
        return False
    if isinstance(error, ImportError):  # of a library that is there, the linker could not map it
        return not isinstance(error, ModuleNotFoundError)
    trace = error.__traceback__  # from `_run` on; Python takes its own importing out of it
    while trace is not None and trace.tb_frame.f_code.co_name != "<module>":
        trace = trace.tb_next
    return trace is not None


def _out_of_memory() -> int:
    from crossllm.cache.console.machine import bound_in_words

    bound = bound_in_words()
    more = "raise the bound" if bound else "use a machine with more"
    show_errors([f"out of memory{bound}; make the batches or the model smaller, or {more}"])
    return 4


def _usage_line(error: click.ClickException) -> str:
    """Click's message on one line, with the command whose `--help` tells more."""
    line = " ".join(error.format_message().split())
    context = error.ctx if isinstance(error, click.UsageError) else None
    ended = line if line.endswith((".", "?", "!", ")")) else f"{line}."
    return f"{ended} See `{context.command_path} --help`." if context else line


def _os_error(error: OSError, again: str) -> int:
    from crossllm.cache.files import fsio

    if isinstance(error, BrokenPipeError):
        # The reader (`| head`) has what it wanted; point stdout away so that the flush at exit cannot fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    where = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error)
    if error.errno == errno.EFBIG:
        show_errors([f"{where}{reason}; raise `ulimit -f`, or take a disk that holds such files, and {again}"])
        return 4
    if error.errno in fsio.NO_SPACE:
        show_errors([f"{where}{reason}; free some space and {again}"])
        return 4
    if error.errno in _PATH_ERRORS:
        show_errors([f"{where}{reason}; check the path and its permissions"])
        return 2
    if error.errno in (errno.EMFILE, errno.ENFILE):
        show_errors([f"{where}{reason}; raise `ulimit -n`, or make few segments of many with `crossllm cache compact`"])
        return 4
    if error.errno == errno.ETIMEDOUT:  # of an object store; what was tried is said
        show_errors([f"{where}{reason}; {again}"])
        return 4
    if error.errno in (errno.EIO, errno.ENOMEM):
        show_errors([f"{where}{reason}; the system refused, {again}"])
        return 4
    raise error


@contextmanager
def stop_between_records() -> Iterator[Callable[[], bool]]:
    """Hold back the signals of `HEARD` inside, so that no record is cut in half.

    Yields a function that says whether one of them has arrived; the signal takes effect when the block is left.
    Outside the main thread signals never arrive, and nothing is held back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    arrived: list[int] = []
    before = {
        known: signal.signal(known, lambda number, _frame: arrived.append(number))
        for known in HEARD
        if signal.getsignal(known) is not signal.SIG_IGN  # a shell's job in the background
    }
    try:
        yield lambda: bool(arrived)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if arrived:
        raise KeyboardInterrupt if arrived[0] == signal.SIGINT else Terminated

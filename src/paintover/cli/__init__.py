"""The command line. Results go to stdout, progress and messages to stderr; it holds no editing logic.

Exit codes: 0 done; 2 bad usage or bad input; 1 a failure of ours; 130 interrupted.
"""

from __future__ import annotations

import codecs
import io
import os
import sys

import typer

from paintover.cli import edit, sweep, compare, tune, invert, about, models, train, datasets, instructions, evaluate  # isort: skip (the order of --help)
from paintover.cli.shared import Interrupted, app, tell
from paintover.editors import registry
from paintover.editors.knobs import takes
from paintover.errors import PaintoverError, RequestError

__all__ = [
    "about", "app", "compare", "datasets", "edit", "evaluate", "instructions", "invert", "main", "models", "sweep",
    "train", "tune",
]  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Entry point: one line on stderr for whatever goes wrong, and the exit code that belongs to it."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # Before torch is loaded: threads that wait asleep, not spinning. On a busy machine an edit took 56 s spinning, 0.2 s so.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _open_streams()
    try:
        code = app(arguments, prog_name="paintover", standalone_mode=False)
        if code == 130:  # what the app makes of Ctrl-C itself
            raise KeyboardInterrupt
    except PaintoverError as error:
        code = _complain(str(error), 2)
    except Interrupted as ended:
        code = _complain(f"interrupted; {ended}", 130)
    except typer.TyperException as error:
        code = _complain(_usage(error, arguments), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = _complain("interrupted; nothing was left half-written", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        if os.environ.get("PAINTOVER_DEBUG"):
            raise
        code = _complain(f"{type(error).__name__}: {error} (a fault of ours; PAINTOVER_DEBUG=1 shows where)", 1)
    sys.exit(code or 0)


def _open_streams() -> None:
    """Standard streams that take whatever is printed, even where the caller has closed them."""
    codecs.register_error("paintover", _unprintable)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for as long as the process lives)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="paintover")


def _unprintable(error: UnicodeError) -> tuple[str | bytes, int]:
    """For codecs: a file name that is not UTF-8 goes out as it came in; what the stream cannot hold is escaped."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def _usage(error: typer.TyperException, arguments: list[str]) -> str:
    """A wrong command line in one line; an unknown flag of `edit` and `imagine` is answered with the editor's knobs."""
    option = getattr(error, "option_name", None) if type(error).__name__ == "NoSuchOption" else None
    command = next((word for word in arguments if not word.startswith("-")), "")
    message = " ".join(error.format_message().split())
    dashed = next((word for word in arguments if word.startswith("-") and word[1:2] != "-" and len(word) > 2), None)
    lacking = type(error).__name__ == "MissingParameter" or (option is not None and not option.startswith("--"))
    if dashed is not None and lacking and command in ("edit", "imagine", "sweep", "compare"):
        return (
            f'"{dashed}" was read as options; if it is what you want of the picture, write it with a space first, " {dashed}", '
            f'or as the last word behind all options and --: -- "{dashed}"'
        )
    if option is not None and command in ("edit", "imagine", "sweep", "invert", "tune"):
        given = [b for a, b in zip(["", *arguments], [*arguments, ""], strict=True) if a == "--editor"]
        given += [word.partition("=")[2] for word in arguments if word.startswith("--editor=")]
        usual = {"imagine": "imagine", "sweep": "mdp-noise", "invert": "invert", "tune": "unitune"}.get(
            command, registry.names()[0]
        )
        spoken = any(word == "--ref" or word.startswith("--ref=") for word in arguments)
        name = given[-1] if given else "any2pix" if spoken else usual
        try:
            editor = registry.get(name)
        except RequestError as unknown:
            return str(unknown)
        known = getattr(editor, "Tuning", editor.Knobs) if command == "tune" else editor.Knobs
        return f"there is no option {option}; {takes(name, known)}"
    if command == "invert" and "extra argument" in message:
        return f"{message}: invert takes a picture; what it shows goes into --source-prompt"
    commands = {info.name or info.callback.__name__ for info in app.registered_commands if info.callback is not None}
    commands |= {str(info.name) for info in app.registered_groups}
    where = f"paintover {command} --help" if command in commands else "paintover --help"
    return f"{message or 'no command was given'} (see {where})"


def _complain(message: str, code: int) -> int:
    tell(f"paintover: {message}")
    return code

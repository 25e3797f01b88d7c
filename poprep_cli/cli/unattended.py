"""The command line of a crontab, `poprep [--config FILE] [--state-dir DIR] [-q] poll`, understood without click.

Cron runs it every minute, and to load click takes a fifth of the time of a pass that finds no mail. What is understood here means
the same as to click, which a test compares; whatever else there is on the line, or is wrong with it, is left to click.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from poprep_cli.cli.settings import Settings
from poprep_cli.errors import ExitCode, PoprepError

_QUIET = ("-q", "--quiet")
_EXPANDED = "*?[~$%"  # click has these expanded on Windows, where no shell does


def understood(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings | None:
    """Return what the global options in front of a bare `poll` say; None if it is another command line."""
    *options, command = arguments or [""]
    if command != "poll" or "_POPREP_COMPLETE" in environment:
        return None
    paths = {
        name: environment.get(f"POPREP_{name[2:].replace('-', '_').upper()}") for name in ("--config", "--state-dir")
    }
    quiet = False
    words = iter(options)
    for word in words:
        name, equals, value = word.partition("=")
        if name in paths:
            paths[name] = (value if equals else next(words, "")) or "-"
        elif word in _QUIET:
            quiet = True
        else:
            return None
    if not all(_is_plain(path) for path in paths.values() if path):
        return None
    config, state_dir = (Path(path) if path else None for path in paths.values())
    return Settings(config, state_dir, 0, quiet)


def run(settings: Settings) -> ExitCode:
    """Run the pass that was asked for and return its exit code. What ends it before it has begun is told on stderr."""
    from poprep_cli.cli import console
    from poprep_cli.cli.passing import run_pass

    end_loading()
    try:
        return run_pass(settings)
    except PoprepError as error:
        console.tell(error)
        return error.exit_code
    except KeyboardInterrupt:  # before the pass minds signals
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # nobody reads what is told: as click ends then
        return ExitCode.PARTIAL


def end_loading() -> None:
    """Look for garbage from now on, but not among what is loaded, if this process has put it off: see `__main__`."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _is_plain(path: str) -> bool:
    """Whether click would have nothing to say about a path: it is no option, and can be read if it is there."""
    if path.startswith("-") or (sys.platform == "win32" and any(char in path for char in _EXPANDED)):
        return False
    return os.access(path, os.R_OK) or not os.path.exists(path)  # noqa: PTH110 - False for what is no file name

"""`python -m poprep_cli` is `poprep`: the process, from its first import to its end."""

from __future__ import annotations

import gc
import os
import sys


def start() -> None:
    """Run the command line and end the process with its exit code.

    Most passes find no mail and take less time than Python needs to look for garbage among what they have loaded: while
    the program is loaded there is none (`end_loading` has Python look for it from then on), and all there is ends with
    the process.
    """
    gc.disable()
    from poprep_cli.cli.unattended import run, understood

    try:
        settings = understood(sys.argv[1:], os.environ)
        if settings is not None:
            sys.exit(run(settings))
        from poprep_cli.cli.main import main

        main()
    finally:
        gc.freeze()  # or Python looks through all once more before it ends


if __name__ == "__main__":
    start()

"""Runs commands and measures them: `python -I -S measure.py`, a small process so that its memory hides nobody's peak.

Each line on stdin is a JSON list: the command, its environment, its folder, a file for its output, and a time limit in
seconds. Each is answered by a line with wall-clock seconds, seconds of CPU (with its children's), the peak of resident memory
in KiB (of it or one of its children), and the exit code, negative for a signal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

if sys.platform == "win32":
    raise SystemExit("only POSIX tells the CPU time and memory of children")


def run(command: list[str], environment: dict[str, str], folder: str, output: str, limit: float) -> dict[str, float]:
    """Run a command to its end and return what it took. It is killed, with its children, after `limit` seconds."""
    os.chdir(folder)
    began = time.monotonic()
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    process = os.posix_spawn(command[0], command, environment, file_actions=actions, setpgroup=0)
    watch = threading.Timer(limit, os.killpg, (process, signal.SIGKILL))
    watch.start()
    _, status, usage = os.wait4(process, 0)
    seconds = time.monotonic() - began
    watch.cancel()
    return {
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak_kib": usage.ru_maxrss,
        "code": os.waitstatus_to_exitcode(status),
    }


def main() -> None:
    """Answer lines until stdin ends."""
    for line in sys.stdin:
        print(json.dumps(run(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()

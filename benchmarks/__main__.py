"""`python -m benchmarks`: measures, prints tables, and keeps the figures as JSON."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.document import BEGIN, END, check, insert

PACKAGES = ("click", "msgspec", "pytest", "trustme")
MECHANISMS = ("plain",)  # Dovecot's default


def missing() -> list[str]:
    """Return what has to be installed before anything can be measured, each with the command that does it."""
    found = [
        f"the Python package {name}: pip install -e '.[test]'"
        for name in PACKAGES
        if importlib.util.find_spec(name) is None
    ]
    if found:
        return found
    from tests.real.private import find

    if sys.platform != "linux" or os.geteuid() != 0:
        found.append("Linux and root: Dovecot starts its processes under users of their own")
    if find("dovecot") is None:
        found.append("Dovecot: apt-get install dovecot-pop3d")
    return found


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text("ascii", "replace").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "Machine": f"{os.cpu_count()} x {model}, {platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "Load at the start": Path("/proc/loadavg").read_text("ascii").split()[0],
    }


def versions() -> dict[str, str]:
    """Return the versions of the server and of each program, or that it is missing and what installs it."""
    from benchmarks.peers import PEERS
    from tests.real.private import find

    dovecot = find("dovecot") or "dovecot"
    told = subprocess.run([dovecot, "--version"], capture_output=True, text=True, check=False).stdout.split()
    found = {"Dovecot": told[0] if told else "unknown"}
    for peer in PEERS:
        found[peer.name] = f"not installed: apt-get install {peer.packages}" if peer.missing else peer.told_version()
    return found


def measure(names: str | None, programs: str | None, rounds: int, *, quick: bool, fast: bool) -> dict[str, Any]:
    """Measure workloads and return the figures. Raises ValueError for a workload or program that there is not."""
    from benchmarks.contenders import contenders
    from benchmarks.peers import selected
    from benchmarks.servers import PASSWORD, Meter, Sink
    from benchmarks.trial import Field
    from benchmarks.workloads import chosen
    from tests.real.dovecot import Dovecot

    workloads = [workload.quick() if quick else workload for workload in chosen(names)]
    peers = selected(programs)
    users = {user: PASSWORD for workload in workloads for user in workload.user_names}
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M %Z"),
        "machine": machine(),
        "versions": versions(),
        "workloads": {},
    }
    absent = [peer.name for peer in peers if peer.missing]
    with Meter() as meter, Sink() as sink, Dovecot(users, mechanisms=MECHANISMS) as dovecot:
        field = Field(dovecot, sink, meter)
        for workload in workloads:
            runs = field.run(workload, contenders(workload, peers), rounds, _say, fast=fast)
            results["workloads"][workload.name] = {
                "title": workload.title,
                "messages": workload.whole,
                "kept": workload.kept,
                "runs": {name: [run.as_dict() for run in one] for name, one in runs.items()}
                | {name: [] for name in absent if not workload.alone},
            }
    return results


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="W1,W2", help="these workloads, not all")
    parser.add_argument("--programs", metavar="poprep,fdm", help="these programs beside the limit, not all")
    parser.add_argument("--rounds", type=int, default=5, help="how often each program does each workload (5)")
    parser.add_argument("--fast", action="store_true", help="a share of the mail for who takes over 20 s, scaled")
    parser.add_argument("--quick", action="store_true", help="a tenth of the mail, to try whether all works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures in this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the figures as SVG into this file")
    parser.add_argument(
        "--into", type=Path, metavar="FILE", help=f"put tables and plot into this document, between {BEGIN} and {END}"
    )
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FILE", help="measure nothing, show the figures that --json kept"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, 1 if a run of poprep's went wrong, 2 if something is missing."""
    parser = _parser()
    options = parser.parse_args(arguments)
    lacking = missing() if options.source is None else []
    if lacking:
        print("python -m benchmarks needs", *(f"  {what}" for what in lacking), sep="\n", file=sys.stderr)
        return 2
    try:
        if options.into is not None:
            check(options.into)  # before an hour is spent
        results = _kept(options.source) if options.source is not None else None
    except (ValueError, OSError) as error:
        parser.error(str(error))
    try:
        results = results or _measured(options)
    except ValueError as error:
        parser.error(str(error))
    _publish(results, options)
    from benchmarks.figures import good, is_ours

    ours = [runs for one in results["workloads"].values() for name, runs in one["runs"].items() if is_ours(name)]
    return int(any(len(good(runs)) < len(runs) for runs in ours))


def _kept(source: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(source.read_text("utf-8"))
    return kept


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # the servers end with this process
    return measure(options.only, options.programs, options.rounds, quick=options.quick, fast=options.fast)


def _publish(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Keep the figures, draw them, put them into a document, and print them."""
    from benchmarks.plot import svg
    from benchmarks.table import markdown

    if options.json is not None:
        _write(options.json, json.dumps(results, indent=1) + "\n")
    if options.plot is not None:
        _write(options.plot, svg(results))
    text = markdown(results)
    if options.into is not None:
        insert(options.into, text, options.plot)
    print(text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


if __name__ == "__main__":
    sys.exit(main())

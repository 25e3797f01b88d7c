"""Who is measured at a workload: the limit, yardsticks, and the programs that are installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.peers import PEERS, POPREP, Command, Peer, Setting
from benchmarks.servers import PASSWORD, ROOT
from benchmarks.workloads import COPY, LIST, START, Workload

IMPORTS = "python imports"
FIRST_PASS, FIRST_QUIET = f"{POPREP}, first pass", f"{POPREP}, first quiet pass"
RAW, RAW_DATA, RAW_BDAT, VERSION = "raw listing", "raw copy, DATA", "raw copy, BDAT", "poprep --version"


@dataclass(frozen=True, slots=True)
class Contender:
    """A row of the table. `prepare` returns the commands of one run; with `inside` they tell their seconds themselves.

    With `again` the run that counts is not the first one in its folder; `between` changes the folder after the one before.
    """

    name: str
    prepare: Callable[[Setting], list[Command]]
    codes: tuple[int, ...] = (0,)
    inside: bool = False
    moves: bool = True  # whether it does the workload, or is a yardstick without servers
    again: bool = True
    between: Callable[[Path], None] | None = None
    scales: bool = True  # whether it may do a share of a workload for which it takes long


def _raw(*, chunked: bool, submits: bool) -> Callable[[Setting], list[Command]]:
    def prepare(setting: Setting) -> list[Command]:
        task = {
            "users": list(setting.users),
            "password": PASSWORD,
            "pop3_port": setting.pop3_port,
            "smtp_port": setting.smtp_port if submits else 0,
            "ca_file": str(setting.ca_file) if setting.ca_file is not None else None,
            "chunked": chunked,
            "delete": not setting.keep,
        }
        return [[sys.executable, "-I", "-S", str(ROOT / "benchmarks" / "raw.py"), json.dumps(task)]]

    return prepare


def _with_options(peer: Peer, options: Mapping[str, int | str]) -> Callable[[Setting], list[Command]]:
    return lambda setting: peer.prepare(replace(setting, options=options))


def contenders(workload: Workload, peers: Sequence[Peer] = PEERS) -> list[Contender]:
    """Return who does a workload: the limit, then the programs that are installed."""
    found = []
    if workload.kind == COPY:
        found += [
            Contender(name, _raw(chunked=chunked, submits=True), inside=True, again=False)
            for name, chunked in ((RAW_BDAT, True), (RAW_DATA, False))
            if workload.chunking or not chunked
        ]
    else:
        found.append(Contender(RAW, _raw(chunked=False, submits=False), inside=True))
    if workload.kind == START:
        imports = [sys.executable, "-c", "import click, ssl, socket, json, tomllib"]
        version = [sys.executable, "-m", "poprep_cli", "--version"]
        found.append(Contender(IMPORTS, lambda _: [imports], moves=False))
        found.append(Contender(VERSION, lambda _: [version], moves=False))
    for peer in peers:
        if peer.missing or (workload.alone and peer.name != POPREP):
            continue
        if peer.name == POPREP:
            found += _ours(workload, peer)
        else:
            found.append(Contender(peer.name, peer.prepare, peer.codes))
    return found


def _ours(workload: Workload, peer: Peer) -> list[Contender]:
    """Return poprep as it is by default, with other options, and without what an earlier pass leaves."""
    whole = Contender(peer.name, peer.prepare, peer.codes, scales=False)
    found = [whole]
    found += [
        replace(whole, name=f"{POPREP}, {name}", prepare=_with_options(peer, options))
        for name, options in workload.options.items()
    ]
    if workload.first and workload.kind == COPY:
        found.append(replace(whole, name=FIRST_PASS, again=False))
    if workload.first and workload.kind == LIST:
        found.append(replace(whole, name=FIRST_QUIET, between=_forget_quiet))
    return found


def _forget_quiet(folder: Path) -> None:
    """Remove the memo of the last quiet pass over a large mailbox."""
    for path in (folder / "state").glob("*.status.json"):
        status = json.loads(path.read_text("utf-8"))
        status.pop("quiet", None)
        path.write_text(json.dumps(status), "utf-8")

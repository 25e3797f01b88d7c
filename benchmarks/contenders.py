"""Who is measured at a workload: the limit, yardsticks, and the programs that are installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.peers import PEERS, POPREP, Command, Peer, Setting
from benchmarks.servers import PASSWORD, ROOT
from benchmarks.workloads import COPY, START, Workload

IMPORTS = "python imports"
RAW, RAW_DATA, RAW_BDAT, VERSION = "raw listing", "raw copy, DATA", "raw copy, BDAT", "poprep --version"


@dataclass(frozen=True, slots=True)
class Contender:
    """A column of the table. `prepare` returns the commands of one run; with `inside` they tell their seconds themselves."""

    name: str
    prepare: Callable[[Setting], list[Command]]
    codes: tuple[int, ...] = (0,)
    inside: bool = False
    moves: bool = True  # whether it does the workload, or is a yardstick without servers


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
            Contender(name, _raw(chunked=chunked, submits=True), inside=True)
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
        found.append(Contender(peer.name, peer.prepare, peer.codes))
        if peer.name == POPREP:
            found += [
                Contender(f"{POPREP}, {name}", _with_options(peer, options), peer.codes)
                for name, options in workload.options.items()
            ]
    return found

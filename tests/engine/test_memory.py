"""A pass over 200,000 kept messages stays below 120 MiB, also when it writes the whole journal anew."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from socket import create_server, socket

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")

MESSAGES = 200_000
LIMIT = 120  # MiB

# The peak since the program was started, unlike what getrusage says: that counts the process from which it was started, too.
RUN = """\
import sys
from poprep_cli.cli.main import main
try:
    main()
except SystemExit as end:
    code = end.code
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def sizes() -> list[int]:
    chosen = random.Random(1)
    return [chosen.randrange(1_000, 50_000) for _ in range(MESSAGES)]


@pytest.fixture(scope="module")
def port(sizes: list[int]) -> Iterator[int]:
    """The port of a server that lists these, whoever logs in."""
    answers = {
        b"CAPA": b"+OK\r\nUSER\r\nUIDL\r\nTOP\r\nPIPELINING\r\n.\r\n",
        b"UIDL": "".join(["+OK\r\n", *(f"{n} {n:08X}6743AA01\r\n" for n in range(1, MESSAGES + 1)), ".\r\n"]).encode(),
        b"LIST": "".join(["+OK\r\n", *(f"{n} {size}\r\n" for n, size in enumerate(sizes, 1)), ".\r\n"]).encode(),
    }

    def serve(line: socket) -> None:
        with line, line.makefile("rb") as commands:
            line.sendall(b"+OK ready\r\n")
            for command in commands:
                line.sendall(answers.get(command.split()[0], b"+OK\r\n"))

    def accept(listener: socket, sessions: int) -> None:
        for _ in range(sessions):
            serve(listener.accept()[0])

    with create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, args=(listener, 2), daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        thread.join(10)


@pytest.mark.parametrize("known_as", ["joe@127.0.0.1:{port}", "elsewhere"])
def test_many_kept_messages(tmp_path: Path, port: int, sizes: list[int], known_as: str) -> None:
    config, journal = tmp_path / "poprep.toml", tmp_path / "state" / "office.jsonl"
    config.touch(mode=0o600)
    config.write_text(
        f"""\
[smtp]
host = "127.0.0.1:1"
[connector.office]
pop3 = {{host = "127.0.0.1:{port}", user = "joe", password = "secret", auth = ["user"]}}
routing = {{send_to = ["office@corp.example"]}}
""",
        "utf-8",
    )
    journal.parent.mkdir(mode=0o700)
    first = {"format": "poprep-state", "version": 1, "mailbox": known_as.format(port=port)}
    chosen = random.Random(2)
    lines = [json.dumps(first, separators=(",", ":"))]
    for number, size in enumerate(sizes, 1):
        at = f"2026-11-{1 + number * 20 // MESSAGES:02}T06:{number % 60:02}:00Z"
        lines.append(
            f'{{"uidl":"{number:08X}6743AA01","first_seen":"{at}","status":"delivered","at":"{at}",'
            f'"octets":{size},"fingerprint":"{chosen.getrandbits(128):032x}"}}'
        )
    journal.touch(mode=0o600)
    journal.write_text("\n".join([*lines, ""]), "utf-8")
    before = journal.read_bytes()
    options = ["--config", str(config), "--state-dir", str(journal.parent), "poll"]
    done = subprocess.run([sys.executable, "-c", RUN, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) / 1024 < LIMIT
    after = journal.read_bytes()
    assert (after == before) is (known_as != "elsewhere")  # then its first line changes
    assert after.partition(b"\n")[2] == before.partition(b"\n")[2]

"""What private servers need: a folder, free ports, a certificate, and a word about machines that can't run them."""

from __future__ import annotations

import os
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

START_TIMEOUT = 20.0  # seconds; a busy machine takes its time
REQUIRE = "POPREP_REQUIRE_SERVERS"

_PORTS = range(20_000, 32_000)  # below the ephemeral ports of Linux, so that no client takes one in between


def require(*programs: str) -> None:
    """Skip the test if this machine can't run the programs: they are missing, or this is not root.

    With POPREP_REQUIRE_SERVERS=1 the test fails instead, so that a check that needs them never passes without them.
    """
    missing = [name for name in programs if find(name) is None]
    if missing:
        _refuse(f"needs {' and '.join(missing)}, not installed here")
    if sys.platform == "win32" or os.geteuid() != 0:
        _refuse(f"needs root to start {' and '.join(programs)} with users of their own")


def _refuse(reason: str) -> None:
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{reason} ({REQUIRE}=1)", pytrace=False)
    pytest.skip(reason)


def find(program: str) -> str | None:
    """Return the path of a program, also of one in the sbin folders; None if there is none."""
    return shutil.which(
        program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
    )


def folder(name: str) -> Path:
    """Return a new folder that servers may enter under their own users (pytest's are closed to them)."""
    path = Path(tempfile.mkdtemp(prefix=f"poprep-{name}-", dir="/tmp"))
    path.chmod(0o755)
    return path


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 on which nobody listens."""
    pick = random.SystemRandom()
    while True:
        port = pick.choice(_PORTS)
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def wait_until(condition: Callable[[], bool], what: str, timeout: float = START_TIMEOUT) -> None:
    """Return once the condition holds; raise TimeoutError with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} within {timeout:g} s")
        time.sleep(0.01)


def greets(port: int, start: bytes) -> bool:
    """Return whether a server on this port of 127.0.0.1 greets with a line that starts like this."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
            return line.recv(512).startswith(start)
    except OSError:
        return False


class Certificate:
    """A certificate for localhost and 127.0.0.1 by an authority of its own. `ca_file` is what clients trust."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1")
        self.ca_file = folder / "ca.pem"
        self.cert_file = folder / "cert.pem"
        self.key_file = folder / "key.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        issued.private_key_pem.write_to_path(str(self.key_file))
        self.key_file.chmod(0o600)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(str(self.cert_file), append=True)

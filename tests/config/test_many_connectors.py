"""A configuration of very many connectors: what is done for each must not grow with their number."""

from __future__ import annotations

import sys
from pathlib import Path

from poprep_cli.config.load import examine

CONNECTOR = """
[connector.c{0}]
poll_every = 5
[connector.c{0}.pop3]
host = "pop{0}.example.net"
user = "u{0}@example.net"
password = "secret"
[connector.c{0}.smtp]
host = "mx{0}.example.net"
[connector.c{0}.routing]
send_to = ["u{0}@corp.example"]
"""


def calls(count: int) -> int:
    """Return how many functions are called to read a configuration of so many connectors."""
    text = '[smtp]\nhost = "mx.example.net"\n' + "".join(map(CONNECTOR.format, range(count)))
    called = 0

    def note(_frame, event: str, _argument) -> None:
        nonlocal called
        called += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        config, faults = examine(text, Path("poprep.toml"))
    finally:
        sys.setprofile(None)
    assert config is not None
    assert not faults
    assert len(config.connectors) == count
    return called


def test_ten_times_as_many_connectors_are_ten_times_the_work() -> None:
    calls(1)  # what is done once in a process
    few, many = calls(30), calls(300)
    assert many < 10.5 * few
    assert many < 300 * 2000  # some hundreds each; a second has room for ten million

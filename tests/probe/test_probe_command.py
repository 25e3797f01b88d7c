"""`poprep probe` as its user sees it: what it is about, what it says, and with which exit code it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner, Result
from rich.console import Console

from poprep_cli.cli.main import cli
from poprep_cli.cli.probe import look
from poprep_cli.cli.probe_target import choose
from poprep_cli.cli.probe_view import render
from poprep_cli.cli.settings import Settings
from poprep_cli.config.load import load
from poprep_cli.embedded.pop3 import Pop3Faults, Pop3Server
from poprep_cli.embedded.smtp import SmtpServer
from tests.poll.world import POSIX, closed_port

CONFIG = """\
[smtp]
host = "{smtp}"
timeout = 1
{smtp_lines}
[connector.Office]
{connector_lines}
[connector.Office.pop3]
host = "{pop3}"
user = "u"
password = {{ env = "POPREP_NEVER_SET" }}
timeout = 1
{pop3_lines}
[connector.Office.routing]
send_to = ["office@corp.example"]
"""
MARKUP = b"[red]x[/red] [link=http://evil.example]y[/link] \x1b[31mz\x1b]0;t\x07"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def context(authority: trustme.CA, tmp_path: Path) -> ssl.SSLContext:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(made)
    return made


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "poprep.toml"


def write(path: Path, pop3: Pop3Server, smtp: SmtpServer, **lines: str) -> None:
    defaults = {"smtp_lines": "", "connector_lines": "", "pop3_lines": ""}
    path.touch(mode=0o600)
    path.write_text(CONFIG.format(pop3=pop3.address, smtp=smtp.address, **(defaults | lines)), encoding="utf-8")


def probe(config: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(cli, ["--config", str(config), "probe", *arguments], standalone_mode=False)
    if result.exception is None:
        assert all(len(line) <= 80 for line in result.stdout.splitlines() if "tls_fingerprint" not in line)
        assert result.stdout.isprintable() or "\x1b" not in result.stdout
    return result


def document(config: Path, *arguments: str) -> dict[str, Any]:
    result = probe_json(config, *arguments)
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["exit_code"] == result.return_value
    return found


def probe_json(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["--config", str(config), "probe", "--json", *arguments], standalone_mode=False)


# A host


def test_a_host_without_a_configuration(config: Path) -> None:
    with Pop3Server() as server:
        done = probe(config, server.address)
    assert done.return_value == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "ok POP3: a poll would log in by apop WITHOUT ENCRYPTION, in 5 round trips"
    assert "apop                welcome             yes      1      usable" in lines
    assert "user                CAPA                yes      2      usable" in lines
    assert "[connector.NAME.pop3]" in lines
    assert server.sessions[0].verbs == ["CAPA", "AUTH", "QUIT"]


@pytest.mark.parametrize("tls", [False, True])
def test_the_snippet_is_a_configuration(config: Path, context: ssl.SSLContext, tls: bool) -> None:
    with Pop3Server(context=context if tls else None, ssl=tls) as server:
        found = document(config, server.address, *(["--ssl"] if tls else []))
    rest = '[smtp]\nhost = "localhost"\n[connector.NAME.routing]\nsend_to = ["a@corp.example"]\n'
    config.touch(mode=0o600)
    config.write_text(f"{rest}{found['snippet']}\n".replace("# tls_fingerprint", "tls_fingerprint"), encoding="utf-8")
    (connector,) = load(config).connectors
    assert str(connector.pop3.address) == server.address
    assert connector.pop3.ssl == tls
    assert connector.pop3.auth == ("apop", "user")
    if tls:
        assert connector.pop3.tls_settings.fingerprint == found["pop3"]["tls"]["certificate"]["sha256"]
        with server:
            config.write_text(
                config.read_text("utf-8").replace(f":{found['pop3']['server'].rpartition(':')[2]}", f":{server.port}"),
                encoding="utf-8",
            )
            assert document(config, "name")["pop3"]["exit_code"] == 0


def test_an_untrusted_certificate(config: Path, context: ssl.SSLContext) -> None:
    with Pop3Server(context=context, ssl=True) as server:
        done = probe(config, server.address, "--ssl")
    assert done.return_value == 76
    assert done.stdout.startswith("NO POP3: a poll would refuse: the certificate of 127.0.0.1:")
    text = " ".join(done.stdout.split())
    for part in ("unable to get local issuer certificate", "expected name 127.0.0.1", "NOT TRUSTED", "localhost"):
        assert part in text
    assert '# tls_fingerprint = "' in text


def test_tls_at_once_without_asking_for_it(config: Path, context: ssl.SSLContext, monkeypatch) -> None:
    monkeypatch.setattr("poprep_cli.cli.probe_target.TIMEOUT", 0.5)
    with Pop3Server(context=context, ssl=True) as server:
        found = document(config, server.address)
    assert found["pop3"]["ssl"]
    assert any("TLS at once" in note for note in found["pop3"]["notes"])
    assert "ssl = true" in found["snippet"]


@pytest.mark.parametrize(
    ("word", "at_connect", "port", "tls_at_connect"),
    [
        ("pop.example.net", False, 110, False),
        ("pop.example.net", True, 995, True),
        ("pop.example.net:995", False, 995, True),
        ("[::1]:1100", False, 1100, False),
        ("192.0.2.1:110", True, 110, True),
    ],
)
def test_ports(config: Path, word: str, at_connect: bool, port: int, tls_at_connect: bool) -> None:
    target = choose(Settings(config, None, 0, quiet=False), word, at_connect=at_connect)
    assert (target.pop3.address.port, target.pop3.ssl) == (port, tls_at_connect)
    assert any("--ssl" in note for note in target.notes) == (word.endswith(":995") and not at_connect)


def test_nobody_there(config: Path) -> None:
    done = probe(config, f"127.0.0.1:{closed_port()}")
    assert done.return_value == 75
    assert "connection refused" in " ".join(done.stdout.split())


@pytest.mark.parametrize("word", ["a b", "a:b:c", "pop.example.net:0", "unix:/tmp/x", ""])
def test_what_is_no_host(config: Path, word: str) -> None:
    done = CliRunner().invoke(cli, ["--config", str(config), "probe", word])
    assert done.exit_code == 2
    assert "neither a connector nor a host" in done.output or "unix socket" in done.output


def test_a_method_that_does_not_fit(config: Path) -> None:
    with Pop3Server(faults=Pop3Faults(apop=False, capa=(b"UIDL", b"SASL GSSAPI"))) as server:
        done = probe(config, server.address)
    assert done.return_value == 77
    assert "no enabled method is usable" in done.stdout
    assert "GSSAPI" in done.stdout


def test_server_text_is_inert(config: Path) -> None:
    faults = Pop3Faults(
        greeting=b"+OK " + MARKUP + b"\r\n",
        capa=(b"UIDL", b"USER", b"IMPLEMENTATION " + MARKUP, b"SASL [bold]X\x9b31m"),
        replies={"AUTH": b"-ERR " + MARKUP + b"\r\n"},
    )
    with Pop3Server(faults=faults) as server:
        plain, as_json = probe(config, server.address), probe_json(config, server.address)
        probed, _ = look(choose(Settings(config, None, 0, quiet=True), server.address, at_connect=False), quiet=True)
    shown = io.StringIO()
    render(probed, Console(file=shown, width=80, force_terminal=False))
    for text in (plain.stdout, as_json.stdout, shown.getvalue()):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\x9b" not in text
        assert "[red]x[/red]" in text
        assert "\\x1b[31m" in text.replace("\\\\", "\\")


def test_the_rich_view_has_everything_and_fits(config: Path, context: ssl.SSLContext) -> None:
    with Pop3Server(context=context, ssl=True) as server:
        probed, _ = look(choose(Settings(config, None, 0, quiet=True), server.address, at_connect=True), quiet=True)
    shown = Console(file=io.StringIO(), width=80, record=True, force_terminal=True)
    render(probed, shown)
    text = shown.export_text(clear=False)
    for part in ("a poll would refuse", "NOT TRUSTED", "scram-sha-256-plus", "SHA-256", "[connector.NAME.pop3]"):
        assert part in text
    assert max(len(line.rstrip()) for line in text.splitlines() if not line.startswith("#")) <= 80
    assert "<svg" in shown.export_svg(title="poprep probe")


# A connector


def test_a_connector_and_its_smtp_server(config: Path, context: ssl.SSLContext) -> None:
    lines = 'tls = "required"\ntls_ca_file = "ca.pem"\n'
    with Pop3Server(context=context) as pop3, SmtpServer(context=context, user="x") as smtp:
        write(config, pop3, smtp, pop3_lines=lines, smtp_lines=f'{lines}user = "x"\npassword = "y"\n')
        done = probe(config, "OFFICE")
        found = document(config, "office")
    assert done.return_value == 0
    assert done.stdout.startswith("ok POP3: a poll would log in by apop over TLS 1.3, in 8 round trips\nok SMTP: mail")
    assert "saves 1 round trip" in done.stdout
    assert found["connector"] == "Office"
    assert found["smtp"][0]["method"] == "cram-md5"
    assert found["smtp"][0]["tls"]["trusted"]
    assert smtp.delivered == []


def test_nothing_needs_to_change(config: Path, smtp: SmtpServer) -> None:
    with Pop3Server() as pop3:
        write(config, pop3, smtp, pop3_lines='auth = ["apop", "user"]')
        done = probe(config, "office")
    assert done.return_value == 0
    assert done.stdout.endswith("\nNothing needs to change in the configuration.\n")


@pytest.mark.parametrize(
    ("faults", "lines", "code", "line"),
    [
        ({"capa": "hang"}, "", 0, 'detect = ["auth", "welcome"]'),
        ({"capa": (b"UIDL", b"USER", b"LOGIN-DELAY 901")}, "", 0, "poll_every = 16"),
        ({}, 'auth = ["cram-md5"]', 77, 'auth = ["apop", "user"]'),
        ({}, 'auth = ["user"]', 0, 'auth = ["apop", "user"]'),
        ({}, "ssl = true", 76, "ssl = false"),
        ({"capa": (b"UIDL", b"USER", b"STLS")}, "", 0, 'tls = "required"'),
    ],
)
def test_what_would_be_better(config: Path, smtp: SmtpServer, faults, lines: str, code: int, line: str) -> None:
    with Pop3Server(faults=Pop3Faults(**faults)) as pop3:
        write(config, pop3, smtp, pop3_lines=lines)
        done = probe(config, "office")
    assert done.return_value == code, done.stdout
    assert line in done.stdout.partition("Better in the configuration:")[2].splitlines()


def test_the_most_severe_server_counts(config: Path, smtp: SmtpServer) -> None:
    with Pop3Server() as pop3:
        write(config, pop3, smtp, smtp_lines='tls = "required"')
        assert probe(config, "office").return_value == 76


def test_a_connector_wants_no_ssl_option_and_may_be_off(config: Path, smtp: SmtpServer) -> None:
    with Pop3Server() as pop3:
        write(config, pop3, smtp)
        assert "--ssl is for hosts" in str(probe(config, "office", "--ssl").exception)
        write(config, pop3, smtp, connector_lines="enabled = false")
        assert "switched off" in str(probe(config, "office").exception)
    assert pop3.sessions == []


def test_a_word_that_is_neither(config: Path, smtp: SmtpServer) -> None:
    with Pop3Server() as pop3:
        write(config, pop3, smtp)
        done = probe(config, "offcie-with-a-typo_")
    text = " ".join((done.stdout or str(done.exception)).split())
    assert "there are: Office" in text


def test_a_broken_configuration(config: Path) -> None:
    config.touch(mode=0o600)
    config.write_text("[nonsense\n", encoding="utf-8")
    with Pop3Server() as pop3:
        done = probe(config, pop3.address)
    assert done.return_value == 0
    assert "warning: the configuration is left aside" in done.stderr
    assert "poprep.toml" in str(probe(config, "office").exception)


# The end of it


def test_the_whole_probe_has_a_deadline(config: Path, monkeypatch) -> None:
    monkeypatch.setattr("poprep_cli.cli.probe.LEAST", 0.3)
    monkeypatch.setattr("poprep_cli.cli.probe.PATIENCE", 0)
    with Pop3Server(faults=Pop3Faults(replies={"AUTH": "hang"})) as server:
        began = time.monotonic()
        found = document(config, server.address)
    assert time.monotonic() - began < 5
    assert found["exit_code"] == 75
    assert "given up after" in found["pop3"]["verdict"]
    assert found["pop3"]["greeting"].startswith("+OK")
    assert "UIDL" in found["pop3"]["clear"]["capabilities"]


@pytest.mark.skipif(not POSIX, reason="Windows has no SIGINT for another process")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_what_was_seen(config: Path, number: signal.Signals, code: int) -> None:
    with Pop3Server(faults=Pop3Faults(replies={"AUTH": "hang"})) as server:
        running = subprocess.Popen(
            [sys.executable, "-m", "poprep_cli", "--config", str(config), "probe", server.address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        end = time.monotonic() + 20
        while not (server.sessions and "AUTH" in server.sessions[0].verbs):
            assert time.monotonic() < end
            time.sleep(0.01)
        running.send_signal(number)
        out, err = running.communicate(timeout=20)
    assert running.returncode == code, err
    assert err == ""
    assert "stopped by a signal" in out
    assert "UIDL" in out

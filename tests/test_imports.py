"""What a pass from cron loads: cron starts it every minute, so nothing that it can do without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from poprep_cli.embedded.pop3 import Mail, Maildrop, Pop3Server
from poprep_cli.embedded.smtp import SmtpServer

# After `start` has ended, for whatever reason, everything that was loaded goes to the file named first.
RUN = """
import sys
report = sys.argv.pop(1)
try:
    from poprep_cli.__main__ import start
    start()
finally:
    loaded = sorted(sys.modules)
    import json
    with open(report, "w", encoding="utf-8") as file:
        json.dump(loaded, file)
"""
CONFIG = """
[smtp]
host = "{smtp}"
[connector.office.pop3]
host = "{pop3}"
user = "demo"
password = "demo"
auth = ["{method}"]
[connector.office.routing]
send_to = ["office@corp.example"]
"""
THIRD_PARTY = {"msgspec", "typing_extensions"}
# Of the standard library: what costs more than a millisecond, and that we have weighed.
HEAVY = {
    "dataclasses",
    "datetime",
    "decimal",
    "hashlib",
    "inspect",
    "ipaddress",
    "pathlib",
    "re",
    "select",
    "selectors",
}
HEAVY |= {"socket", "threading", "tomllib", "typing", "uuid"}
NEVER = {
    "argparse",
    "asyncio",
    "concurrent",
    "cProfile",
    "click",
    "ctypes",
    "email",
    "ftplib",
    "html",
    "http",
    "hypothesis",
    "importlib.metadata",
    "json",
    "keyring",
    "logging",
    "multiprocessing",
    "pdb",
    "platformdirs",
    "poplib",
    "poprep_cli.cli.demo",
    "poprep_cli.config.edit",
    "poprep_cli.embedded",
    "pydoc",
    "rich",
    "scramp",
    "shlex",
    "smtplib",
    "spnego",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "tomlkit",
    "traceback",
    "unittest",
    "urllib.request",
    "xml",
    "zipfile",
}
# What the standard library's modules above bring along, and what every interpreter has.
LIGHT_NAMES = """
    __future__ abc array ast base64 bdb binascii bisect builtins codecs collections contextlib contextvars copy
    copyreg dis encodings enum errno fcntl fnmatch functools gc genericpath gettext glob hmac importlib io itertools
    keyword linecache locale marshal math msvcrt nt ntpath numbers opcode operator os platform posix posixpath
    queue random reprlib secrets shutil signal site sitecustomize sre_compile sre_constants sre_parse stat string
    stringprep struct sys textwrap time token tokenize types unicodedata urllib urllib.parse warnings weakref
    winreg zipimport zlib
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> set[str]:
    """Run one pass with mail in it, not on a terminal and without TLS, and return the modules that were loaded."""
    mail = Mail(b"u", b"Subject: x\r\n\r\nbody\r\n")
    with Pop3Server(Maildrop([mail])) as pop3, SmtpServer() as smtp:
        found = loaded_by_pass(tmp_path_factory.mktemp("pass"), pop3, smtp, "apop")
        assert len(smtp.delivered) == 1
    return found


@pytest.fixture(scope="module", params=["apop", "user"])
def loaded_by_quiet_pass(request, tmp_path_factory) -> set[str]:
    """Run two passes over an empty mailbox, and return what the second one loaded: how to log in is known by then."""
    folder = tmp_path_factory.mktemp("pass")
    with Pop3Server(Maildrop([])) as pop3, SmtpServer() as smtp:
        loaded_by_pass(folder, pop3, smtp, request.param)
        found = loaded_by_pass(folder, pop3, smtp, request.param)
        assert not smtp.sessions
    return found


def loaded_by_pass(folder: Path, pop3: Pop3Server, smtp: SmtpServer, method: str) -> set[str]:
    report = folder / "modules.json"
    config = folder / "poprep.toml"
    config.write_text(CONFIG.format(pop3=pop3.address, smtp=smtp.address, method=method), encoding="utf-8")
    config.chmod(0o600)
    arguments = ["--config", str(config), "--state-dir", str(folder / "state"), "poll"]
    # -I: neither this process's environment nor its folder; the path is given, for a checkout that is not installed.
    bootstrap = f"import sys; sys.path.insert(0, {str(Path(__file__).parent.parent)!r})\n{RUN}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", bootstrap, str(report), *arguments],
        capture_output=True,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))},
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    return set(json.loads(report.read_text(encoding="utf-8"))) - started_with()


def started_with() -> set[str]:
    """Return what an interpreter of this environment loads by itself, such as by its .pth files."""
    code = "import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_what_takes_long_is_not_loaded(loaded) -> None:
    assert {name for name in loaded if name in NEVER or name.partition(".")[0] in NEVER} == set()


def test_everything_loaded_is_known(loaded) -> None:
    known = THIRD_PARTY | HEAVY | set(LIGHT_NAMES.split())
    tops = {name.partition(".")[0] for name in loaded}
    unknown = {name for name in tops if not name.startswith(("_", "poprep_cli")) and name not in known}
    assert unknown == set()
    assert "msgspec" in tops  # it is what this test takes it for


def test_a_pass_loads_its_own_modules_only(loaded) -> None:
    ours = {name for name in loaded if name.startswith("poprep_cli")}
    assert {"poprep_cli.engine.poll", "poprep_cli.net.maildrop", "poprep_cli.net.submission"} <= ours
    assert not {name for name in ours if "embedded" in name or name.endswith((".demo", ".edit", ".ntlm"))}


# What a pass over an empty mailbox loads of ours. Most passes are such ones: what is added here is paid for every minute.
QUIET = """
    __main__ cli cli.choosing cli.console cli.passing cli.running cli.settings cli.signals cli.unattended
    config config.load config.model config.secrets config.values config.weaknesses
    engine engine.access engine.adopt engine.backoff engine.clock engine.days engine.deletion engine.due engine.expiry
    engine.files engine.identity engine.journal_line engine.log engine.plan engine.poll engine.quiet engine.redact engine.report
    engine.retention engine.rounds engine.run engine.state engine.status engine.store engine.survey engine.visit
    errors
    net net.authenticate net.detect net.dialogue net.link net.login net.maildrop net.one_method net.proof net.refusal net.stop net.stream net.tls
    protocol protocol.pop3 protocol.sasl protocol.sasl.mechanism protocol.sasl.methods protocol.wire
"""
# Of the standard library: what moving mail needs, what click does, and the codec of IDNA: an address has no use for it.
NOT_QUIET = {"base64", "dataclasses", "encodings.idna", "gettext", "hashlib", "hmac", "locale"}
NOT_QUIET |= {"random", "secrets", "shutil", "tempfile"}


def test_a_quiet_pass_loads_no_more_than_it_needs(request, loaded_by_quiet_pass) -> None:
    ours = {name for name in loaded_by_quiet_pass if name.startswith("poprep_cli.")}
    assert ours == {f"poprep_cli.{name}" for name in QUIET.split()}
    by_apop = {"base64", "hashlib"} if "apop" in request.node.name else set()  # its digest is MD5, and is masked
    assert loaded_by_quiet_pass & NOT_QUIET == by_apop
    assert {name for name in loaded_by_quiet_pass if name in NEVER or name.partition(".")[0] in NEVER} == set()


def test_scram_needs_the_standard_library_alone() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import poprep_cli.protocol.sasl.scram; print(*sys.modules)"
    root = str(Path(__file__).parent.parent)
    done = subprocess.run([sys.executable, "-I", "-c", code, root], capture_output=True, text=True, check=True)
    assert not {"scramp", "asn1crypto", "ssl", "stringprep"} & set(done.stdout.split())

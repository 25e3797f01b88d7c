"""A private Postfix: a real SMTP server that delivers everything into one Maildir, in a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.real.cyrus import MECHANISMS, add_sasl_user
from tests.real.private import Certificate, find, folder, free_port, greets, require, wait_until

# What Postfix stores and what it was sent map one to one with these settings, so tests can compare octets:
# * Lines are stored with LF. `smtpd_forbid_bare_newline = reject` refuses mail with a bare LF (550), so
#   each LF in a file was CRLF on the wire.
# * A bare CR is stored as it came (`cleanup_replace_stray_cr_lf = no`), so it would be seen.
# * Header lines of any length are kept whole (`header_size_limit`), no header is dropped, added or rewritten
#   (`message_drop_headers`, `local_header_rewrite_clients`), and MIME structure is not looked at.
# What is lost: the difference between a last line that ends with CRLF and one that does not, which SMTP's DATA can't
# express either (BDAT can; Postfix ends such a line). What no setting prevents is in `stored_form`; what is put in
# front, in `own_fields`.
_MAIN = """\
compatibility_level = 3.6
config_directory = {root}/etc
queue_directory = {root}/queue
data_directory = {root}/data
daemon_directory = {daemons}
maillog_file = {root}/maillog
maillog_file_prefixes = {root}
myhostname = mx.test.example
mydestination = test.example
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
virtual_transport = virtual
virtual_mailbox_domains = corp.example
virtual_mailbox_base = {root}/mail
virtual_mailbox_maps = {mailbox_maps}
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_mailbox_limit = 0
message_size_limit = {message_size_limit}
alias_maps =
alias_database =
message_drop_headers =
local_header_rewrite_clients =
disable_mime_input_processing = yes
header_size_limit = 50000000
header_address_token_limit = 50000000
hopcount_limit = 1000
cleanup_replace_stray_cr_lf = no
smtpd_forbid_bare_newline = reject
smtpd_forbid_bare_newline_exclusions =
smtpd_peername_lookup = no
smtpd_recipient_restrictions = permit_mynetworks, reject
in_flow_delay = 0
"""

_SASL = """\
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = cyrus
smtpd_sasl_security_options = noanonymous
cyrus_sasl_config_path = {root}/etc/sasl
smtpd_recipient_restrictions = permit_sasl_authenticated, reject
"""

_SMTPD = """\
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {root}/etc/sasl/sasldb2
mech_list: {mechanisms}
"""

_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""

_FIELD_NAME = re.compile(rb"[!-9;-~]+[ \t]*:")
_QUEUES = ("maildrop", "incoming", "active", "deferred", "hold")


class Postfix:
    """A running Postfix, stopped at the end of its `with` block. It takes mail for every address at corp.example.

    With `mailboxes`, local parts, it takes mail for these alone, each in a Maildir of its name. With `tls` it offers STARTTLS; with `users` it takes mail from these alone, who log in by Cyrus SASL with one of the
    `mechanisms`. `extra` lines of main.cf override those above.
    """

    def __init__(
        self,
        *,
        tls: bool = False,
        users: Mapping[str, str] | None = None,
        mechanisms: Sequence[str] = MECHANISMS,
        message_size_limit: int = 60_000_000,
        mailboxes: Sequence[str] = (),
        extra: str = "",
    ) -> None:
        require("postfix", *(("saslpasswd2",) if users else ()))
        self.root = folder("postfix")
        self.certificate = Certificate(self.root) if tls else None
        self.port = free_port()
        self._etc = self.root / "etc"
        self._running = False
        self._cut_short = 0  # as far into the log as sessions may have no end
        self._lay_out()
        values = {
            "root": self.root,
            "message_size_limit": message_size_limit,
            "daemons": _postconf("daemon_directory"),
            "mailbox_maps": self._mailboxes(mailboxes),
        }
        main = f"{_MAIN.format_map(values)}{self._tls()}{self._sasl(users or {}, mechanisms)}{extra}\n"
        # The last setting of a parameter wins, but Postfix warns of a second one.
        settings = {line.partition("=")[0].strip(): line for line in main.splitlines() if line.strip()}
        (self._etc / "main.cf").write_text("\n".join([*settings.values(), ""]), "ascii")
        (self._etc / "master.cf").write_text(_MASTER.format(port=self.port), "ascii")

    def _lay_out(self) -> None:
        for name in ("etc", "queue", "data", "mail"):
            (self.root / name).mkdir(mode=0o755)
        shutil.chown(self.root / "data", "postfix")
        shutil.chown(self.root / "mail", 65534, 65534)
        for source in Path(_postconf("config_directory")).iterdir():
            if not source.name.startswith(("dynamicmaps.cf", "postfix-files")):
                continue
            if source.is_dir():
                shutil.copytree(source, self._etc / source.name)
            else:
                shutil.copy(source, self._etc / source.name)

    def _mailboxes(self, names: Sequence[str]) -> str:
        if not names:
            return "static:all/"
        table = self._etc / "mailboxes"
        table.write_text("".join(f"{name}@corp.example {name}/\n" for name in names), "utf-8")
        return f"texthash:{table}"

    def _tls(self) -> str:
        if self.certificate is None:
            return ""
        files = (
            f"smtpd_tls_cert_file = {self.certificate.cert_file}\nsmtpd_tls_key_file = {self.certificate.key_file}\n"
        )
        return f"smtpd_tls_security_level = may\n{files}"

    def _sasl(self, users: Mapping[str, str], mechanisms: Sequence[str]) -> str:
        if not users:
            return ""
        place = self._etc / "sasl"  # Debian's Postfix reads it there, whatever cyrus_sasl_config_path says
        place.mkdir(mode=0o755)
        settings = _SMTPD.format(root=self.root, mechanisms=" ".join(mechanisms))
        (place / "smtpd.conf").write_text(settings, "ascii")
        for user, password in users.items():
            add_sasl_user(place / "sasldb2", "mx.test.example", user, password)
        shutil.chown(place / "sasldb2", "postfix")
        return _SASL.format(root=self.root)

    @property
    def ca_file(self) -> Path:
        """The certificate of the authority that clients have to trust."""
        assert self.certificate is not None, "this instance has no TLS"
        return self.certificate.ca_file

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._clear_away()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear_away()

    def _clear_away(self) -> None:
        self.stop()
        shutil.rmtree(self.root)

    def start(self) -> None:
        """Start it and return when it greets. Raises AssertionError with what it said if it does not start."""
        self._remove_torsos()
        self._running = True
        done = self._control("start")
        assert done.returncode == 0, f"Postfix does not start: {done.stderr}{self.log}"
        wait_until(lambda: greets(self.port, b"220"), f"Postfix does not answer on port {self.port}")

    def _remove_torsos(self) -> None:
        """Remove what a kill cut short before it was accepted: files without the x of a complete one. Postfix lets them lie."""
        for path in (self.root / "queue" / "incoming").rglob("*"):
            if path.is_file() and not path.stat().st_mode & 0o100:
                path.unlink()

    def stop(self) -> None:
        """Stop this instance, and no other. Its mail stays."""
        if self._running:
            self._running = False
            self._control("stop")

    def kill(self) -> None:
        """Kill this instance and no other, in the middle of whatever it does. What it has accepted is in its queue."""
        if sys.platform == "win32":
            raise OSError("Postfix does not run here")
        self._running = False
        master = int((self.root / "queue" / "pid" / "master.pid").read_text("ascii"))
        assert os.getpgid(master) == master, "the master leads the process group of its children"
        os.killpg(master, signal.SIGKILL)
        self._cut_short = len(self.log)

    def _control(self, command: str) -> subprocess.CompletedProcess[str]:
        program = find("postfix")
        assert program is not None
        return subprocess.run(
            [program, "-c", str(self._etc), command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )

    @property
    def log(self) -> str:
        """What it wrote to its log so far."""
        file = self.root / "maillog"
        return file.read_text("utf-8", "replace") if file.exists() else ""

    def log_mark(self) -> int:
        """Return how long the log is once each session so far has ended in it, which Postfix writes after the client left."""
        wait_until(self._has_no_session, "Postfix logs no end of a session")
        return len(self.log)

    def _has_no_session(self) -> bool:
        lines = self.log[self._cut_short :]
        return lines.count("]: connect from ") == lines.count("]: disconnect from ")

    def settle(self, timeout: float = 60.0) -> None:
        """Return when everything that was accepted is delivered. Raises TimeoutError."""
        wait_until(self._is_idle, "Postfix has not delivered its queue", timeout)

    def _is_idle(self) -> bool:
        # Upstream queues first: a message moves downwards, so none can slip through while they are looked at.
        return not any(path.is_file() for name in _QUEUES for path in (self.root / "queue" / name).rglob("*"))

    def delivered(self, mailbox: str = "all") -> dict[str, bytes]:
        """Return the delivered messages by file name, as stored, with LF at line ends; see also `settle`."""
        maildir = self.root / "mail" / mailbox / "new"
        return {path.name: path.read_bytes() for path in maildir.iterdir()} if maildir.exists() else {}

    def take(self, mailbox: str = "all") -> dict[str, bytes]:
        """Return the messages delivered since the last call, and remove them."""
        messages = self.delivered(mailbox)
        for name in messages:
            (self.root / "mail" / mailbox / "new" / name).unlink()
        return messages


def own_fields(stored: bytes) -> int:
    """Return how many octets in front of a stored message are Postfix's own fields, its Received included.

    Raises AssertionError if they are not as expected.
    """
    place = 0
    for name in (b"Return-Path:", b"X-Original-To:", b"Delivered-To:", b"Received:"):
        assert stored.startswith(name, place), f"{name!r} expected in {stored[place : place + 100]!r}"
        place = stored.index(b"\n", place) + 1
    while stored[place : place + 1] == b"\t":
        place = stored.index(b"\n", place) + 1
    return place


def stored_form(content: bytes) -> bytes:
    """Return how Postfix stores mail that arrives as some header field and, behind it, these lines with CRLF ends.

    Each CRLF becomes LF. In front of a first line of text within the header goes an empty line, and the rest of a field
    behind a NUL in it vanishes; a test sends the corpus straight to Postfix to see that this is all.
    """
    kept = []
    place = 0
    while place < len(content):
        end = content.find(b"\r\n", place) + 2 or len(content)
        line = content[place:end]
        if line == b"\r\n":
            break
        if not line.startswith((b" ", b"\t")) and not _FIELD_NAME.match(line):
            kept.append(b"\r\n")
            break
        while content[end : end + 1] in (b" ", b"\t"):
            end = content.find(b"\r\n", end) + 2 or len(content)
        field, nul, _ = content[place:end].partition(b"\0")
        kept.append(field + b"\r\n" if nul else field)
        place = end
    return (b"".join(kept) + content[place:]).replace(b"\r\n", b"\n")


def _postconf(parameter: str) -> str:
    program = find("postconf")
    assert program is not None
    command = [program, "-dh", parameter]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

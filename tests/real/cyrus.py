"""A private Cyrus: a real POP3 server with NTLM and the AUTH listing, in a folder and on a port of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from smtplib import LMTP
from types import TracebackType
from typing import Self

from tests.real.private import Certificate, find, folder, free_port, greets, require, wait_until
from tests.real.raw import Line, maildrop

MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "DIGEST-MD5", "NTLM", "SCRAM-SHA-1", "SCRAM-SHA-256")
# Where the check unpacks pop3d: Debian's package of it can't be installed beside Dovecot's.
POP3D = Path(os.environ.get("POPREP_CYRUS") or "/var/lib/poprep-tests/cyrus") / "pop3d"

_BIN = Path("/usr/lib/cyrus/bin")
_MASTER = _BIN / "master"
_USER, _GROUP = "cyrus", "mail"
_REALM = "localhost"
_FOLDERS = ("socket", "db", "proc", "log", "msg", "ptclient", "user", "quota", "lock", "sieve")

_IMAPD = """\
configdirectory: {root}/conf
partition-default: {root}/spool
defaultpartition: default
admins: cyrus
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: {root}/sasldb2
sasl_mech_list: {mechanisms}
allowplaintext: yes
allowapop: yes
servername: localhost
lmtpsocket: {root}/conf/socket/lmtp
autocreate_quota: 0
autocreate_post: yes
popminpoll: 0
failedloginpause: 0
duplicatesuppression: 0
expunge_mode: immediate
delete_mode: immediate
"""

_SERVICES = """\
START {{
  recover cmd="{bin}/ctl_cyrusdb -C {root}/imapd.conf -r"
}}
SERVICES {{
  pop3 cmd="{pop3d} -C {root}/imapd.conf -U 30" listen="127.0.0.1:{port}" prefork=0
  lmtpunix cmd="lmtpd -a -C {root}/imapd.conf" listen="{root}/conf/socket/lmtp" prefork=0
}}
EVENTS {{
}}
"""


class Cyrus:
    """A running Cyrus, stopped at the end of its `with` block. `port` is for POP3, with STLS if there is a certificate.

    Names of users are ASCII; for NTLM, passwords as well, and any domain will do. Over TLS it announces -PLUS, too, of
    which it knows the channel binding tls-unique only. `extra` lines of imapd.conf override those above.
    """

    def __init__(
        self,
        users: Mapping[str, str] | None = None,
        *,
        tls: bool = True,
        mechanisms: Sequence[str] = MECHANISMS,
        extra: str = "",
    ) -> None:
        require(str(_MASTER), str(POP3D), "saslpasswd2")
        self.users = dict(users or {"joe": "secret"})
        self.root = folder("cyrus")
        self.certificate = Certificate(self.root) if tls else None
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._lay_out()
        imapd = f"{_IMAPD.format(root=self.root, mechanisms=' '.join(mechanisms))}{self._tls()}{extra}"
        # Cyrus ends at once, and without a word, if a setting is there twice: the last one wins.
        options = {line.partition(":")[0].strip(): line for line in imapd.splitlines() if line.strip()}
        (self.root / "imapd.conf").write_text("\n".join([*options.values(), ""]), "ascii")
        services = _SERVICES.format(root=self.root, bin=_BIN, pop3d=POP3D, port=self.port)
        (self.root / "cyrus.conf").write_text(services, "ascii")
        for user, password in self.users.items():
            add_sasl_user(self.root / "sasldb2", _REALM, user, password)
        for path in (self.root, *self.root.rglob("*")):
            shutil.chown(path, _USER, _GROUP)

    def _lay_out(self) -> None:
        for name in ("spool", "conf", *(f"conf/{part}" for part in _FOLDERS)):
            (self.root / name).mkdir(mode=0o755)

    def _tls(self) -> str:
        if self.certificate is None:
            return ""
        return f"tls_server_cert: {self.certificate.cert_file}\ntls_server_key: {self.certificate.key_file}\n"

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
        """Start it and return when it greets. Raises AssertionError with its log if it ends at once."""
        root = self.root
        options = ["-C", f"{root}/imapd.conf", "-M", f"{root}/cyrus.conf", "-p", f"{root}/conf/master.pid"]
        with (root / "stderr").open("wb") as told:
            self._process = subprocess.Popen(
                [_MASTER, *options, "-L", f"{root}/log", "-D"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=told,
                user=_USER,
                group=_GROUP,
                extra_groups=[],
                start_new_session=True,  # at its end it sends SIGTERM to its process group
            )
        wait_until(self._answers, f"Cyrus does not answer on port {self.port}")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"Cyrus ended at once: {self.log}"
        return greets(self.port, b"+OK")

    def stop(self) -> None:
        """Stop it: the master by its process id, which ends its children. Its mail stays."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def log(self) -> str:
        """What it wrote to its files so far; most of what Cyrus has to say goes to syslog."""
        files = (self.root / "stderr", self.root / "log")
        return "".join(file.read_text("utf-8", "replace") for file in files if file.is_file())

    def deliver(self, user: str, content: bytes) -> None:
        """Send a message with CRLF line ends into the user's maildrop. Cyrus puts Return-Path and Received in front."""
        with LMTP(f"{self.root}/conf/socket/lmtp") as line:
            assert line.sendmail("", [user], content) == {}

    def left(self, user: str) -> dict[str, bytes]:
        """Return the messages in the user's maildrop by their UIDLs, as RETR gives them."""
        messages = maildrop(self.port, user, self.users[user])
        return {uidl.decode("ascii"): content for uidl, content in messages.items()}

    def empty(self, user: str) -> None:
        """Remove all mail from the user's maildrop."""
        with Line(self.port) as line:
            assert line.line().startswith(b"+OK")
            line.pop3(b"USER " + user.encode())
            line.pop3(b"PASS " + self.users[user].encode())
            for number in range(int(line.pop3(b"STAT").split()[1])):
                line.pop3(b"DELE %d" % (number + 1))
            line.pop3(b"QUIT")


def add_sasl_user(database: Path, realm: str, user: str, password: str) -> None:
    """Add a user to a password database of Cyrus SASL, which is made if there is none."""
    program = find("saslpasswd2")
    assert program is not None
    command = [program, "-p", "-c", "-f", str(database), "-u", realm, user]
    subprocess.run(command, input=password.encode(), check=True, stdout=subprocess.DEVNULL, timeout=60)

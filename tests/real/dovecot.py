"""A private Dovecot: a real POP3 server with Maildirs, in a folder and on ports of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.real.private import Certificate, find, folder, free_port, greets, require, wait_until

MECHANISMS = ("plain", "login", "cram-md5", "apop", "scram-sha-1", "scram-sha-256")

LMTP = Path("/usr/lib/dovecot/lmtp")  # Debian's place; a package of its own

_CONFIG = """\
base_dir = {root}/run
state_dir = {root}/state
log_path = {root}/log
protocols = {protocols}
listen = 127.0.0.1
disable_plaintext_auth = no
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
passdb {{
  driver = passwd-file
  args = scheme=PLAIN {root}/users
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={root}/home/%u
}}
first_valid_uid = 1
mail_location = maildir:~/Maildir
pop3_uidl_format = {uidl_format}
# Nothing in the Maildir is renamed because it was read: tests look into it at any instant.
pop3_no_flag_updates = yes
service pop3-login {{
  inet_listener pop3 {{
    port = {port}
  }}
  inet_listener pop3s {{
    port = {ssl_port}
  }}
}}
"""

_LMTP = """\
service lmtp {{
  inet_listener lmtp {{
    port = {port}
  }}
  unix_listener lmtp {{
    mode = 0666
  }}
}}
"""


class Dovecot:
    """A running Dovecot, stopped at the end of its `with` block.

    `port` is for POP3, with STLS if there is a certificate; `ssl_port` for pop3s, 0 without one. With `uidl_format`
    "%g" the UIDL is the name that `deliver` gives to a message's file. With `lmtp` it takes mail for its users by LMTP,
    at `lmtp_port` and at the socket `lmtp_socket`.
    """

    def __init__(
        self,
        users: Mapping[str, str] | None = None,
        *,
        ssl: bool = True,
        mechanisms: Sequence[str] = MECHANISMS,
        uidl_format: str = "%08Xu%08Xv",
        lmtp: bool = False,
        extra: str = "",
    ) -> None:
        require("dovecot", *([str(LMTP)] if lmtp else ()))
        self.users = dict(users or {"joe": "secret"})
        self.root = folder("dovecot")
        self.certificate = Certificate(self.root) if ssl else None
        self.port = free_port()
        self.ssl_port = free_port() if ssl else 0
        self.lmtp_port = free_port() if lmtp else 0
        self.lmtp_socket = self.root / "run" / "lmtp"
        self._numbers = count(1)
        self._process: subprocess.Popen[bytes] | None = None
        config = _CONFIG.format(
            root=self.root,
            protocols="pop3 lmtp" if lmtp else "pop3",
            mechanisms=" ".join(mechanisms),
            uidl_format=uidl_format,
            port=self.port,
            ssl_port=self.ssl_port,
        )
        (self.root / "dovecot.conf").write_text(f"{config}{self._tls()}{self._lmtp()}{extra}\n", "ascii")
        lines = [f"{user}:{{PLAIN}}{password}\n" for user, password in self.users.items()]
        (self.root / "users").write_text("".join(lines), "utf-8")
        for user in self.users:
            self._make_maildir(user)

    def _tls(self) -> str:
        if self.certificate is None:
            return "ssl = no\n"
        return f"ssl = yes\nssl_cert = <{self.certificate.cert_file}\nssl_key = <{self.certificate.key_file}\n"

    def _lmtp(self) -> str:
        return _LMTP.format(port=self.lmtp_port) if self.lmtp_port else ""

    def _make_maildir(self, user: str) -> None:
        home = self.root / "home" / user
        for part in (home, home / "Maildir", *(home / "Maildir" / name for name in ("tmp", "new", "cur"))):
            part.mkdir(parents=True, exist_ok=True)
            shutil.chown(part, "mail", "mail")

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
        program = find("dovecot")
        assert program is not None
        with (self.root / "stderr").open("wb") as told:
            self._process = subprocess.Popen(
                [program, "-c", str(self.root / "dovecot.conf"), "-F"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=told,
            )
        wait_until(self._answers, f"Dovecot does not answer on port {self.port}")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"Dovecot ended at once: {self.log}"
        return greets(self.port, b"+OK") and (not self.lmtp_port or greets(self.lmtp_port, b"220"))

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
        """What it wrote so far, to its log and to stderr."""
        files = (self.root / "stderr", self.root / "log")
        return "".join(file.read_text("utf-8", "replace") for file in files if file.exists())

    def deliver(self, user: str, content: bytes, *, name: str | None = None) -> str:
        """Put a message into the user's maildrop and return the name of its file, without a folder.

        The octets are those of the file: Dovecot sends each bare LF as CRLF, and adds a CRLF if there is none at the end.
        """
        name = name or f"{next(self._numbers):08d}.private"
        maildir = self._maildir(user)
        draft = maildir / "tmp" / name
        draft.write_bytes(content)
        shutil.chown(draft, "mail", "mail")
        draft.rename(maildir / "new" / name)
        return name

    def left(self, user: str) -> dict[str, bytes]:
        """Return the messages in the user's maildrop: their octets by the names of their files."""
        return {name: path.read_bytes() for name, path in self._files(user).items()}

    def names(self, user: str) -> set[str]:
        """Return the names of the messages in the user's maildrop, as `deliver` gave them."""
        return set(self._files(user))

    def empty(self, user: str) -> None:
        """Remove all mail from the user's maildrop."""
        for path in self._files(user).values():
            path.unlink()

    def _files(self, user: str) -> dict[str, Path]:
        maildir = self._maildir(user)
        # new/ first: Dovecot moves messages from new/ to cur/, so none can slip through between the two.
        paths = [path for part in ("new", "cur") for path in (maildir / part).iterdir()]
        return {path.name.partition(":")[0]: path for path in paths}

    def _maildir(self, user: str) -> Path:
        return self.root / "home" / user / "Maildir"

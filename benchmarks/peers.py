"""The programs that are measured: each one's configuration in a private folder, its memory of old mail, its command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.servers import PASSWORD, ROOT

RECIPIENT = "all@corp.example"
POPREP = "poprep"

_SEEN = "2026-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Setting:
    """What a program has to do: `users`' mail from one POP3 port to one SMTP port.

    `known` has the UIDLs of mail, by user, that an earlier pass has delivered and kept; with it, or with `keep`, nothing is
    deleted. With a `ca_file` POP3 has TLS at connect. `options` are keys for poprep's [smtp].
    """

    folder: Path
    users: Sequence[str]
    pop3_port: int
    smtp_port: int
    ca_file: Path | None = None
    keep: bool = False
    known: Mapping[str, Sequence[str]] = field(default_factory=dict)
    options: Mapping[str, int | str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        """The servers' name: that in the certificate, where there is one."""
        return "127.0.0.1" if self.ca_file is None else "localhost"

    def write(self, name: str, text: str) -> str:
        """Write a private file in the folder and return its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        path.chmod(0o600)
        return str(path)


Command = list[str]


@dataclass(frozen=True, slots=True)
class Peer:
    """A program: what it is called, what has to be installed for it, and how it is told what to do.

    `prepare` writes its files and returns the commands of a pass, one after the other; `codes` are the exit codes of one
    that went well.
    """

    name: str
    programs: tuple[str, ...]
    packages: str
    prepare: Callable[[Setting], list[Command]]
    version: Command
    codes: tuple[int, ...] = (0,)

    @property
    def missing(self) -> list[str]:
        """The programs that are not installed."""
        return [name for name in self.programs if shutil.which(name) is None]

    def told_version(self) -> str:
        """Return the first line about its version that it says."""
        done = subprocess.run(self.version, capture_output=True, text=True, check=False, cwd=ROOT)
        lines = [line for line in done.stdout.splitlines() if any(letter.isdigit() for letter in line)]
        return lines[0].strip() if lines else "unknown"


def _poprep(setting: Setting) -> list[Command]:
    tables: dict[str, Mapping[str, object]] = {
        "smtp": {"host": f"127.0.0.1:{setting.smtp_port}", "tls": "off", **setting.options}
    }
    for user in setting.users:
        pop3: dict[str, object] = {
            "host": f"{setting.host}:{setting.pop3_port}",
            "user": user,
            "password": PASSWORD,
        }
        if setting.ca_file is not None:
            pop3 |= {"ssl": True, "tls_ca_file": str(setting.ca_file)}
        tables[f"connector.{user}.pop3"] = pop3
        tables[f"connector.{user}.server_copy"] = {"leave_copy": setting.keep}
        tables[f"connector.{user}.routing"] = {"send_to": [RECIPIENT]}
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    config = setting.write("poprep.toml", "\n".join([*lines, ""]))
    state = setting.folder / "state"
    state.mkdir(mode=0o700)
    for user, uidls in setting.known.items():
        mailbox = f"{user}@{setting.host}:{setting.pop3_port}"  # not read, only shown to people
        first = {"format": "poprep-state", "version": 1, "mailbox": mailbox}
        status = {"first_seen": _SEEN, "status": "delivered", "at": _SEEN, "octets": 4000, "fingerprint": "0" * 32}
        entries = [json.dumps({"uidl": uidl, **status}, separators=(",", ":")) for uidl in uidls]
        setting.write(f"state/{user}.jsonl", "\n".join([json.dumps(first), *entries, ""]))
    jobs = ["--jobs", str(len(setting.users))] if len(setting.users) > 1 else []
    return [[sys.executable, "-m", "poprep_cli", "--config", config, "--state-dir", str(state), "poll", *jobs]]


def _fetchmail(setting: Setting) -> list[Command]:
    # It verifies no certificate without a common name, and new ones have none: nothing is verified.
    tls = "ssl no sslcertck" if setting.ca_file is not None else 'sslproto ""'
    how = "keep" if setting.keep else "fetchall no keep"
    lines = ["set no bouncemail", f"poll {setting.host} with proto POP3 port {setting.pop3_port} {_uidl(setting)}"]
    lines += [
        f'  user "{user}" password "{PASSWORD}" smtphost "127.0.0.1/{setting.smtp_port}" smtpname "{RECIPIENT}" {tls} {how}'
        for user in setting.users
    ]
    config = setting.write("fetchmailrc", "\n".join([*lines, ""]))
    known = [f"{user}@{setting.host} {uidl}\n" for user, uidls in setting.known.items() for uidl in uidls]
    setting.write(".fetchids", "".join(known))
    return [["fetchmail", "--silent", "--fetchmailrc", config]]


def _uidl(setting: Setting) -> str:
    return "uidl" if setting.keep else ""


def _msmtp(setting: Setting, sender: str) -> list[str]:
    program = shutil.which("msmtp") or "msmtp"
    server = ["--host=127.0.0.1", f"--port={setting.smtp_port}"]
    return [program, "--file=/dev/null", *server, f"--from={sender}", "--", RECIPIENT]


def _mpop(setting: Setting) -> list[Command]:
    tls = f"tls on\ntls_starttls off\ntls_trust_file {setting.ca_file}" if setting.ca_file is not None else "tls off"
    keep = "keep on\nonly_new on" if setting.keep else "keep off\nonly_new off"
    lines = [
        "defaults",
        tls,
        "auth user",
        keep,
        f'delivery mda "{" ".join(_msmtp(setting, "%F"))}"',
        f"uidls_file {setting.folder}/uidls/%H-%U",
    ]
    (setting.folder / "uidls").mkdir()
    for user in setting.users:
        server = [f"host {setting.host}", f"port {setting.pop3_port}", f"user {user}", f"password {PASSWORD}"]
        lines += [f"account {user}", *server]
    for user, uidls in setting.known.items():
        known = [f" {len(uidls)} {setting.host} {user}", *sorted(uidls), ""]
        setting.write(f"uidls/{setting.host}-{user}", "\n".join(known))
    config = setting.write("mpoprc", "\n".join([*lines, ""]))
    return [["mpop", "--quiet", f"--file={config}", "--all-accounts"]]


def _getmail(setting: Setting, destination: str) -> list[Command]:
    kind = "SimplePOP3Retriever" if setting.ca_file is None else "SimplePOP3SSLRetriever"
    files = []
    for user in setting.users:
        lines = [
            "[retriever]",
            f"type = {kind}",
            f"server = {setting.host}",
            f"port = {setting.pop3_port}",
            f"username = {user}",
            f"password = {PASSWORD}",
            *([f"ca_certs = {setting.ca_file}"] if setting.ca_file is not None else []),
            "[destination]",
            destination,
            "[options]",
            f"read_all = {not setting.keep}",
            f"delete = {not setting.keep}",
            "verbose = 0",
            "",
        ]
        files.append(setting.write(f"getmailrc-{user}", "\n".join(lines)))
        known = [f"{uidl}\0{1767225600}\n" for uidl in setting.known.get(user, ())]
        setting.write(f"oldmail-{setting.host}-{setting.pop3_port}-{user}", "".join(known))
    configs = [f"--rcfile={file}" for file in files]
    return [["getmail", f"--getmaildir={setting.folder}", *configs]]


def _getmail_lmtp(setting: Setting) -> list[Command]:
    server = f"host = 127.0.0.1\nport = {setting.smtp_port}"
    return _getmail(setting, f"type = MDA_lmtp\n{server}\noverride = {RECIPIENT}")


def _getmail_msmtp(setting: Setting) -> list[Command]:
    program, *arguments = _msmtp(setting, "%(sender)")
    shown = ", ".join(json.dumps(argument) for argument in arguments)
    return _getmail(
        setting, f"type = MDA_external\npath = {program}\narguments = ({shown},)\nallow_root_commands = true"
    )


def _fdm(setting: Setting) -> list[Command]:
    setting.folder.chmod(0o777)  # it works as a user of its own
    kind = "pop3" if setting.ca_file is None else "pop3s"  # it can't be given an authority: nothing is verified
    lines = [f'set lock-file "{setting.folder}/fdm.lock"']
    for user in setting.users:
        keep = f'new-only cache "{setting.folder}/fdm-{user}" keep' if setting.keep else ""
        lines.append(
            f'account "{user}" {kind} server "{setting.host}" port {setting.pop3_port} user "{user}" pass "{PASSWORD}" {keep}'
        )
    lines += [
        f'action "out" smtp server "127.0.0.1" port {setting.smtp_port} from "sender@example.net" to "{RECIPIENT}"',
        'match all action "out"',
        "",
    ]
    for user, uidls in setting.known.items():
        path = Path(setting.write(f"fdm-{user}", "".join(f"{len(uidl)} {uidl}\n" for uidl in uidls)))
        path.chmod(0o666)
    config = setting.write("fdm.conf", "\n".join(lines))
    return [["fdm", "-q", "-f", config, "fetch"]]


PEERS = (
    Peer(POPREP, (sys.executable,), "", _poprep, [sys.executable, "-m", "poprep_cli", "--version"]),
    Peer("fetchmail", ("fetchmail",), "fetchmail", _fetchmail, ["fetchmail", "--version"], (0, 1)),
    Peer("mpop + msmtp", ("mpop", "msmtp"), "mpop msmtp", _mpop, ["mpop", "--version"]),
    Peer("getmail, LMTP", ("getmail",), "getmail6", _getmail_lmtp, ["getmail", "--version"]),
    Peer("getmail + msmtp", ("getmail", "msmtp"), "getmail6 msmtp", _getmail_msmtp, ["msmtp", "--version"]),
    Peer("fdm", ("fdm",), "fdm", _fdm, ["dpkg-query", "-W", "-f", "fdm ${Version}\\n", "fdm"]),
)


def selected(names: str | None) -> list[Peer]:
    """Return the programs of a comma-separated list, by the first word of their names, all for None.

    Raises ValueError for a name that there is not.
    """
    if names is None:
        return list(PEERS)
    words = {peer.name: peer.name.split(" ")[0].rstrip(",") for peer in PEERS}
    wanted = names.split(",")
    for name in wanted:
        if name not in words.values():
            raise ValueError(f"there is no program {name!r}; there are: {', '.join(dict.fromkeys(words.values()))}")
    return [peer for peer in PEERS if words[peer.name] in wanted]

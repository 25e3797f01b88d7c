"""What a server remembers of a conversation: which octets and commands crossed the wire, and in how many round trips."""

from __future__ import annotations

from dataclasses import dataclass, field

KEPT_OCTETS = 262_144  # of each session, in the clear and inside TLS: enough for every command, not for all mail


@dataclass(frozen=True, slots=True)
class Command:
    """One command line. `verb` is in capitals, `line` is without its CRLF; `batch` says in which batch it came."""

    verb: str
    line: bytes
    tls: bool
    batch: int


@dataclass(slots=True)
class Session:
    """One connection, from its first octet on; it grows while the connection lasts.

    `batches` counts how often the server, having said all it had to say, had to wait for the client: the round trips.
    `clear` and `secured` are the first `KEPT_OCTETS` octets that the client sent without and with TLS around them, and
    `octets` is how many there were in all. `quit` says whether the client took its leave.
    """

    commands: list[Command] = field(default_factory=list)
    batches: int = 0
    octets: int = 0
    clear: bytearray = field(default_factory=bytearray)
    secured: bytearray = field(default_factory=bytearray)
    tls: bool = False
    quit: bool = False
    ended: bool = False

    @property
    def verbs(self) -> list[str]:
        """The commands' verbs in the order of their arrival."""
        return [command.verb for command in self.commands]

    def add_octets(self, data: bytes) -> None:
        """Note what has arrived."""
        self.octets += len(data)
        kept = self.secured if self.tls else self.clear
        if len(kept) < KEPT_OCTETS:
            kept += data[: KEPT_OCTETS - len(kept)]

    def add_command(self, line: bytes) -> tuple[str, bytes]:
        """Note a command line and return its verb, in capitals, and its argument."""
        verb, _, argument = line.partition(b" ")
        name = verb.decode("ascii", "replace").upper()
        self.commands.append(Command(name, line, self.tls, self.batches))
        return name, argument

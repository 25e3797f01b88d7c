"""The workloads: how much mail of which size, over which line, and which programs are measured at it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

ROUND_TRIP = 0.04  # seconds, of a server in another country
SMALL = 4096  # octets of a small message
COPY, LIST, START = "copy", "list", "start"


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload. `kind` is COPY: mail is moved; LIST: nothing is new among `kept` messages; START: there is nothing to do.

    `messages` is the number for each of `users`. Round trips are in seconds. Without `acknowledge` the SMTP server's kernel
    delays its acknowledgements, without `chunking` it offers DATA only. `alone`: poprep and the limit, no other program.
    `options` are sets of keys for poprep's [smtp], by the name of their row. `first` adds a row for poprep where it has no
    memory of an earlier pass. `share`: who would take long does one in so many messages, if asked to be fast.
    """

    name: str
    title: str
    kind: str = COPY
    messages: int = 0
    octets: int = SMALL
    kept: int = 0
    users: int = 1
    pop3_round_trip: float = 0.0
    smtp_round_trip: float = 0.0
    tls: bool = False
    acknowledge: bool = True
    chunking: bool = True
    alone: bool = False
    options: dict[str, dict[str, int | str]] = field(default_factory=dict)
    first: bool = False
    share: int = 1

    @property
    def user_names(self) -> list[str]:
        """The mailboxes that it uses."""
        if self.kind == LIST:
            return [f"kept{self.kept}"]
        if self.kind == START:
            return ["empty"]
        return [f"user{number:02d}" for number in range(self.users)]

    @property
    def whole(self) -> int:
        """The number of messages of all users."""
        return self.messages * self.users

    def part(self) -> Workload:
        """Return its `share`: fewer messages, or fewer users where each has one."""
        if self.messages > 1:
            return replace(self, messages=-(-self.messages // self.share))
        return replace(self, users=-(-self.users // self.share))

    def before(self) -> Workload:
        """Return what the pass before the measured one moves: a small message for each user."""
        return replace(self, messages=1, octets=min(self.octets, SMALL))

    def quick(self) -> Workload:
        """Return a tenth of it, to try whether all works: its figures mean little."""
        return replace(
            self,
            title=f"{self.title}, a tenth of it",
            messages=-(-self.messages // 10),
            kept=self.kept // 10,
            users=-(-self.users // 10),
        )


WORKLOADS = (
    Workload("W1", "2,000 x 4 KB on loopback, deleted after delivery", messages=2000),
    Workload(
        "W1d",
        "W1, the SMTP server's kernel delays its acknowledgements",
        messages=2000,
        acknowledge=False,
        share=4,
    ),
    Workload("W1x", "20,000 x 4 KB on loopback: ten times W1", messages=20_000, alone=True),
    Workload("W2", "300 x 4 KB, round trip to POP3 40 ms", messages=300, pop3_round_trip=ROUND_TRIP, share=3),
    Workload(
        "W2s",
        "300 x 4 KB, round trip to POP3 and SMTP 40 ms",
        messages=300,
        pop3_round_trip=ROUND_TRIP,
        smtp_round_trip=ROUND_TRIP,
        options={"max_in_flight = 64": {"max_in_flight": 64}},
        first=True,
        share=3,
    ),
    Workload(
        "W2n",
        "W2s with an SMTP server that has no CHUNKING",
        messages=300,
        pop3_round_trip=ROUND_TRIP,
        smtp_round_trip=ROUND_TRIP,
        chunking=False,
        alone=True,
        options={"connections = 8": {"connections": 8}},
    ),
    Workload("W3", "20 x 25 MB on loopback", messages=20, octets=25_000_000, share=4),
    Workload("W4a", "nothing new among 5,000 kept messages", LIST, kept=5_000, first=True),
    Workload("W4b", "nothing new among 50,000 kept messages", LIST, kept=50_000, first=True),
    Workload("W4c", "nothing new among 200,000 kept messages", LIST, kept=200_000, first=True),
    Workload("W5", "a pass over an empty mailbox", START),
    Workload(
        "W6",
        "50 connectors with one new message each, round trip 40 ms",
        messages=1,
        users=50,
        pop3_round_trip=ROUND_TRIP,
        smtp_round_trip=ROUND_TRIP,
        share=5,
    ),
    Workload("W7", "2,000 x 4 KB on loopback, POP3 in TLS, deleted after delivery", messages=2000, tls=True),
)


def chosen(names: str | None) -> list[Workload]:
    """Return the workloads that a comma-separated list names, all for None; "W4" stands for W4a, W4b and W4c.

    Raises ValueError for a name that there is not.
    """
    if names is None:
        return list(WORKLOADS)
    known = {workload.name: workload for workload in WORKLOADS}
    known_groups = {"W4": ["W4a", "W4b", "W4c"]}
    found = []
    for name in names.split(","):
        for one in known_groups.get(name, [name]):
            if one not in known:
                raise ValueError(f"there is no workload {one!r}; there are: {', '.join(known)}")
            found.append(known[one])
    return found

"""Several letters in flight: each gets exactly one outcome, and what the server has agrees with the outcomes."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from poprep_cli.config.model import Address, Smtp
from poprep_cli.embedded.smtp import SmtpFaults, SmtpServer
from poprep_cli.engine.envelope import Letter
from poprep_cli.engine.message import receive
from poprep_cli.errors import ConnectionFailed, LocalProtocolError, RemoteProtocolError, StateError, Stopped
from poprep_cli.net.proof import NO_PROOF, Proof
from poprep_cli.net.stop import Stop
from poprep_cli.net.submission import Submission
from poprep_cli.net.transaction import Outcome
from poprep_cli.protocol.wire import stuff

CAPABLE = (b"PIPELINING", b"CHUNKING", b"SIZE 0", b"8BITMIME")
PEOPLE = (b"a@corp.example", b"b@corp.example")


@dataclass(frozen=True)
class Paper:
    """A letter whose content says which one it is, in parts of `cut` octets."""

    number: int
    forward_paths: tuple[bytes, ...] = PEOPLE
    size: int = 0
    cut: int = 1 << 20
    reverse_path: bytes = b"s@example.net"
    eight_bit: bool = False

    @property
    def content(self) -> bytes:
        return b"Subject: %d\r\n\r\n.\r\n..x\r\n" % self.number + b"x" * self.size + b"\r\n"

    @property
    def octets(self) -> int:
        return len(self.content)

    def plain(self) -> Iterator[bytes]:
        for start in range(0, self.octets, self.cut):
            yield self.content[start : start + self.cut]

    def wire(self) -> Iterator[bytes]:
        yield stuff(self.content)


def connect(
    server: SmtpServer, *, chunking: bool = True, pipelining: bool = True, proof: Proof = NO_PROOF, **changes
) -> Submission:
    defaults = {"addresses": (Address("127.0.0.1", server.port),), "tls": "off", "timeout": 2.0, "data_timeout": 2.0}
    smtp = Smtp(**(defaults | changes))
    return Submission.open(smtp, Stop(), chunking=chunking, pipelining=pipelining, proof=proof)


@contextmanager
def session(server: SmtpServer, **changes) -> Iterator[Submission]:
    with server:
        made = connect(server, **changes)
        try:
            yield made
        finally:
            made.quit()


class Records:
    """Takes the calls before the end of letters, and sees to it that there is one for each."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self, letter: Paper) -> None:
        assert letter.number not in self.numbers
        self.numbers.append(letter.number)


@dataclass
class Flight:
    """What became of letters: outcomes by number, those not sent, and how many at most were in doubt at once."""

    outcomes: dict[int, Outcome]
    unsent: list[int]
    recorded: list[int]
    deepest: int

    def numbers(self, kind: str) -> list[int]:
        return [number for number, outcome in self.outcomes.items() if getattr(outcome, kind)]


def fly(submission: Submission, letters: Sequence[Paper], limit: int) -> Flight:
    """Send letters until the session is over, and collect every outcome."""
    records = Records()
    flight = Flight({}, [], records.numbers, 0)
    sent: deque[Paper] = deque()

    def record(letter: Paper) -> None:
        records(letter)
        flight.deepest = max(flight.deepest, len(records.numbers) - len(flight.outcomes))

    def collect() -> None:
        expected = sent.popleft()
        try:
            letter, outcome = submission.collect()
        except (ConnectionFailed, RemoteProtocolError):
            flight.unsent.append(expected.number)
            return
        assert letter is expected
        flight.outcomes[expected.number] = outcome

    for letter in letters:
        while not submission.room(letter, limit):
            collect()
        if not submission.alive:
            break
        submission.send(letter, record)
        sent.append(letter)
        assert submission.in_flight <= limit
        assert submission.pending == len(sent)
    while submission.pending:
        collect()
    assert not sent
    return flight


def numbers_of(server: SmtpServer) -> list[int]:
    return [int(message.subject) for message in server.delivered]


def check(server: SmtpServer, flight: Flight, limit: int) -> None:
    """The server has what it accepted, perhaps what is in doubt, and nothing else; nothing twice."""
    there = numbers_of(server)
    assert len(set(there)) == len(there)
    accepted, doubtful = set(flight.numbers("accepted")), set(flight.numbers("in_doubt"))
    assert accepted <= set(there) <= accepted | doubtful
    assert len(doubtful) <= limit
    assert flight.deepest <= limit
    assert set(there) <= set(flight.recorded)


papers = [Paper(number) for number in range(40)]


@pytest.mark.parametrize("limit", [1, 8, 64])
@pytest.mark.parametrize(("chunking", "pipelining"), [(True, True), (False, True), (False, False), (True, False)])
def test_all_arrive_as_they_are(limit, chunking, pipelining) -> None:
    server = SmtpServer()
    with session(server, chunking=chunking, pipelining=pipelining) as submission:
        assert submission.chunking is (chunking and pipelining)
        flight = fly(submission, papers, limit)
        assert submission.alive
    assert flight.numbers("accepted") == flight.recorded == list(range(40))
    assert [message.content for message in server.delivered] == [paper.content for paper in papers]
    assert flight.deepest == (min(limit, 39) if submission.chunking else 1)  # the first one goes alone
    assert server.sessions[0].quit
    assert ("BDAT" in server.sessions[0].verbs) is submission.chunking


@pytest.mark.parametrize(("limit", "most"), [(8, 0.2), (64, 0.05)])
def test_round_trips(limit, most) -> None:
    server = SmtpServer(faults=SmtpFaults(latency=0.002), digest_only=True)
    with session(server) as submission:
        flight = fly(submission, [Paper(number, size=4000) for number in range(300)], limit)
    assert len(flight.numbers("accepted")) == 300
    assert flight.deepest == limit
    assert server.sessions[0].batches <= most * 300


def test_with_a_proof_the_first_letter_does_not_go_alone() -> None:
    server = SmtpServer(faults=SmtpFaults(latency=0.002))
    with server:
        first = connect(server)
        assert first.proof == NO_PROOF
        fly(first, papers[:2], 8)
        proof = first.proof
        first.quit()
        assert proof.server.startswith(f"127.0.0.1:{server.port} 8BITMIME ")
        assert proof.longest > 20
        second = connect(server, proof=proof)
        flight = fly(second, papers[2:], 64)
        assert second.proof.longest >= proof.longest
        second.quit()
    assert flight.deepest == 38
    assert [message.content for message in server.delivered] == [paper.content for paper in papers]


@pytest.mark.parametrize("server_says", ["another host.example:25 CHUNKING", ""])
def test_a_proof_of_another_server_is_none(server_says: str) -> None:
    with SmtpServer(faults=SmtpFaults(latency=0.002)) as server:
        submission = connect(server, proof=Proof(server_says, 40))
        flight = fly(submission, papers, 64)
        submission.quit()
    assert flight.deepest == 39


@pytest.mark.parametrize("reply", [b"500 5.5.2 what?\r\n", b"502 5.5.1 not here\r\n"])
def test_a_server_that_has_forgotten_bdat_gets_no_letter_refused_for_good(reply: bytes) -> None:
    server = SmtpServer(faults=SmtpFaults(replies={"bdat": reply}))
    with server:
        probe = connect(server)
        proof = Proof(probe._announces, 60)
        probe.quit()
        submission = connect(server, proof=proof)
        flight = fly(submission, papers[:8], 8)
        assert not submission.alive
        assert submission.proof == NO_PROOF
    assert not server.delivered
    assert not flight.numbers("rejected")
    assert sorted([*flight.unsent, *flight.numbers("in_doubt")]) == list(range(8))


def test_one_round_trip_by_data() -> None:
    server = SmtpServer()
    with session(server, chunking=False) as submission:
        fly(submission, papers, 8)
    assert server.sessions[0].batches == len(papers) + 3  # EHLO, the first envelope, QUIT


REPLIES = [b"450 4.2.0 later\r\n", b"554 5.7.1 no\r\n", b"421 4.3.2 closing\r\n", b"no reply\r\n", b"354 go\r\n"]


@pytest.mark.parametrize("chunking", [True, False])
@pytest.mark.parametrize("limit", [1, 8, 64])
@pytest.mark.parametrize("place", [1, 4, 9])
@pytest.mark.parametrize("fault", [*REPLIES, "drop"])
@pytest.mark.parametrize("stage", ["rset", "mail", "rcpt", "end of content", "end-of-data"])
def test_a_fault_in_the_flight(stage, fault, place, limit, chunking) -> None:
    if stage == "end of content":
        # What a reply can't be at this stage, the line can: break when the letter is stored.
        stage = "after-accept" if fault == "drop" else "bdat" if chunking else "data"
        if fault == b"354 go\r\n" and not chunking:
            fault = b"250 go\r\n"
    only = {stage: {place}}
    faults = {"drop": stage} if fault == "drop" else {"replies": {stage: fault}}
    letters = [Paper(number, PEOPLE[:1]) for number in range(12)]
    server = SmtpServer(faults=SmtpFaults(only=only, announce=CAPABLE, **faults))
    with session(server, chunking=chunking) as submission:
        flight = fly(submission, letters, limit)
        alive = submission.alive
    check(server, flight, limit)
    refused = flight.numbers("deferred") + flight.numbers("rejected")
    if fault in REPLIES[:2] and stage != "rset":
        assert (alive, len(refused), len(flight.numbers("accepted"))) == (True, 1, 11)
    if alive:
        assert len(flight.outcomes) == 12
        assert not flight.numbers("in_doubt")
    if fault == REPLIES[2]:
        assert not flight.numbers("in_doubt")


def test_a_refused_recipient_in_the_middle() -> None:
    server = SmtpServer(faults=SmtpFaults(recipients={b"no@x.example": b"550 5.1.1 who\r\n"}))
    letters = [Paper(n, ((*PEOPLE, b"no@x.example"), (b"no@x.example",), PEOPLE)[n % 3]) for n in range(20)]
    with session(server) as submission:
        flight = fly(submission, letters, 8)
    assert flight.numbers("accepted") == [n for n in range(20) if n % 3 != 1] == numbers_of(server)
    assert flight.numbers("rejected") == [n for n in range(20) if n % 3 != 2]
    assert {verdict.stage for outcome in flight.outcomes.values() for verdict in outcome.rejected} == {"rcpt"}


@pytest.mark.parametrize("stage", ["mail", "rcpt"])
def test_a_positive_reply_to_octets_for_nobody_is_no_acceptance(stage) -> None:
    only = {stage: {3, 4}, "bdat": {3, 4}}
    faults = SmtpFaults(replies={stage: b"550 5.7.1 no\r\n", "bdat": b"250 2.0.0 fine\r\n"}, only=only)
    server = SmtpServer(faults=faults)
    with session(server) as submission:
        flight = fly(submission, [Paper(number, PEOPLE[:1]) for number in range(8)], 8)
    assert flight.numbers("rejected") == [2, 3]
    assert flight.numbers("accepted") == numbers_of(server) == [0, 1, 4, 5, 6, 7]


def test_a_server_that_announces_what_it_does_not_know() -> None:
    server = SmtpServer(faults=SmtpFaults(knows_no_bdat=True))
    with server:
        submission = connect(server)
        flight = fly(submission, papers, 8)
        assert (flight.outcomes, flight.unsent, flight.recorded) == ({}, [0], [0])
        assert not submission.alive
        submission = connect(server, chunking=False)
        flight = fly(submission, papers, 8)
        submission.quit()
        assert flight.numbers("accepted") == list(range(40)) == numbers_of(server)


def test_octets_for_nobody_that_are_taken_for_commands() -> None:
    server = SmtpServer(faults=SmtpFaults(knows_no_bdat=True, replies={"mail": b"550 5.7.1 no\r\n"}))
    with session(server) as submission:
        flight = fly(submission, papers, 8)
    assert (flight.numbers("rejected"), flight.unsent, flight.recorded) == ([0], [], [0])
    assert server.sessions[0].verbs.count("MAIL") == 1


@pytest.mark.parametrize("trouble", ["drop", "discard"])
def test_a_server_that_can_not_pipeline(trouble) -> None:
    server = SmtpServer(faults=SmtpFaults(breaks_when_pipelined=trouble))
    with session(server, timeout=0.3, data_timeout=0.3) as submission:
        flight = fly(submission, papers, 8)
    check(server, flight, 8)
    assert numbers_of(server) == []
    assert len(flight.numbers("in_doubt")) == 1


@pytest.mark.parametrize("chunking", [True, False])
def test_a_session_that_takes_so_many_messages(chunking) -> None:
    server = SmtpServer(faults=SmtpFaults(max_messages=10))
    with server:
        left, sessions = list(papers), 0
        while left:
            submission = connect(server, chunking=chunking)
            flight = fly(submission, left, 8)
            submission.close()
            assert not flight.numbers("in_doubt")
            assert {
                reply.reply.code for number in flight.numbers("deferred") for reply in flight.outcomes[number].deferred
            } <= {421}
            done = set(flight.numbers("accepted"))
            left, sessions = [paper for paper in left if paper.number not in done], sessions + 1
    assert sorted(numbers_of(server)) == list(range(40))
    assert sessions == 4


# Large letters, and letters to many


@pytest.mark.parametrize("around", [False, True])
def test_a_large_letter_goes_in_chunks(around) -> None:
    large = Paper(1, size=30_000_000)
    server = SmtpServer(digest_only=True)
    with session(server) as submission:
        flight = fly(submission, [Paper(0), large, Paper(2), Paper(3)] if around else [large], 8)
    assert not flight.numbers("in_doubt")
    digests = [message.sha256 for message in server.delivered]
    assert hashlib.sha256(large.content).hexdigest() in digests
    assert len(digests) == (4 if around else 1)
    assert server.sessions[0].verbs.count("BDAT") >= 29


@pytest.mark.parametrize(
    "reply", [b"452 4.3.1 full\r\n", b"552 5.3.4 large\r\n", b"421 4.3.2 closing\r\n", b"what\r\n"]
)
@pytest.mark.parametrize("place", [2, 7])
def test_a_refused_chunk_ends_the_letter(reply, place) -> None:
    server = SmtpServer(faults=SmtpFaults(replies={"bdat": reply}, only={"bdat": range(place, place + 3)}))
    letters = [Paper(0), Paper(1, size=2_000_000, cut=100_000), Paper(2)]
    with session(server) as submission:
        flight = fly(submission, letters, 8)
        alive = submission.alive
    check(server, flight, 8)
    assert 1 not in flight.recorded
    assert 1 not in flight.numbers("accepted")
    assert alive is reply.startswith((b"452", b"552"))
    if alive:
        assert flight.numbers("accepted") == [0, 2]
        assert server.sessions[0].octets < 1_200_000


def test_a_large_letter_that_nobody_wants_is_not_sent() -> None:
    server = SmtpServer(faults=SmtpFaults(replies={"rcpt": b"550 5.1.1 who\r\n"}, only={"rcpt": {3, 4}}))
    with session(server) as submission:
        flight = fly(submission, [Paper(0), Paper(1, size=3_000_000), Paper(2)], 8)
    assert flight.numbers("accepted") == flight.recorded == [0, 2]
    assert server.sessions[0].octets < 10_000


def test_a_letter_to_many() -> None:
    many = tuple(b"%d@corp.example" % number for number in range(1500))
    server = SmtpServer()
    with session(server) as submission:
        flight = fly(submission, [Paper(0), Paper(1, many), Paper(2)], 8)
    assert len(flight.outcomes[1].accepted) == 1500
    assert numbers_of(server) == [0, 1, 2]


def test_long_replies_make_for_fewer_in_flight() -> None:
    long = b"250 2.1.5 " + b"o" * 480 + b"\r\n"
    server = SmtpServer(faults=SmtpFaults(replies={"rcpt": long}))
    with session(server) as submission:
        flight = fly(submission, papers, 64)
    assert flight.numbers("accepted") == list(range(40))
    assert flight.deepest < 20


# The content


@pytest.mark.parametrize(
    ("content", "sent"),
    [
        (b"Subject: 1\r\n\r\n.\r\n..\r\n.x\r\n", b"Subject: 1\r\n\r\n.\r\n..\r\n.x\r\n"),
        (b"Subject: 1\n\n.\nlone\rcr\r\r\nend", b"Subject: 1\r\n\r\n.\r\nlone\r\ncr\r\nend\r\n"),
        (b"", b""),
        (b"Subject: 1\n\n" + b"a\n" * 1_500_000 + b"e", b"Subject: 1\r\n\r\n" + b"a\r\n" * 1_500_000 + b"e\r\n"),
        (b"Subject: 1\r\n\r\n" + b"." * 2_000_000, b"Subject: 1\r\n\r\n" + b"." * 2_000_000 + b"\r\n"),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_message_arrives_octet_for_octet(content, sent, whole, tmp_path: Path) -> None:
    lines = content if content.endswith(b"\r\n") or not content else content + b"\r\n"
    block = (b"." + lines if lines.startswith(b".") else lines).replace(b"\r\n.", b"\r\n..") + b".\r\n"
    parts = [block] if whole else [block[:12], block[12:]]
    message = receive(b"u", iter(parts), tmp_path / "spool")
    letter = Letter(message, b"", PEOPLE, b"Received: x\r\n")
    server = SmtpServer()
    with session(server) as submission:
        submission.send(letter, lambda _: None)
        assert submission.collect()[1].accepted
    assert server.delivered[0].content == b"Received: x\r\n" + sent
    assert b"".join(letter.wire()) == stuff(b"Received: x\r\n" + sent)


# What goes wrong on this side


@pytest.mark.parametrize("chunking", [True, False])
def test_nothing_ends_without_its_record(chunking) -> None:
    def full(letter: Paper) -> None:
        if letter.number == 3:
            raise StateError("disk full")

    server = SmtpServer()
    with session(server, chunking=chunking) as submission:
        submission.send(Paper(0), full)
        assert submission.collect()[1].accepted
        submission.send(Paper(1), full)
        with pytest.raises(StateError):
            for number in (3, 4, 5):
                submission.send(Paper(number), full)
            submission.flush()
        assert not submission.alive
        with pytest.raises(ConnectionFailed):
            submission.send(Paper(6), full)
    assert not {3, 4, 5} & set(numbers_of(server))


def test_a_stop_leaves_all_in_doubt() -> None:
    server = SmtpServer(faults=SmtpFaults(hang="end-of-data", only={"end-of-data": {2}}))
    with server:
        stop = Stop()
        smtp = Smtp(addresses=(Address("127.0.0.1", server.port),), tls="off")
        submission = Submission.open(smtp, stop, chunking=True)
        submission.send(Paper(0), Records())
        assert submission.collect()[1].accepted
        for number in (1, 2, 3):
            submission.send(Paper(number), Records())
        submission.flush()
        assert submission.in_flight == 3
        stop.trip()
        with pytest.raises(Stopped):
            submission.collect()
        assert [bool(submission.collect()[1].in_doubt) for _ in range(3)] == [True] * 3
        with pytest.raises(LocalProtocolError):
            submission.collect()


def test_lmtp_goes_by_data() -> None:
    server = SmtpServer(lmtp=True)
    with session(server, protocol="lmtp") as submission:
        assert not submission.chunking
        assert fly(submission, papers, 8).numbers("accepted") == list(range(40))


def test_deliver_goes_by_bdat_too() -> None:
    server = SmtpServer()
    with session(server) as submission:
        for paper, following in zip(papers, [*papers[1:], None], strict=True):
            assert submission.deliver(paper, lambda: None, following).accepted
    assert numbers_of(server) == list(range(40))


# Anything


stages = st.sampled_from(["rset", "mail", "rcpt", "data", "bdat", "mid-data", "end-of-data", "after-accept"])


@examples(max_examples=60, deadline=None)
@given(
    replies=st.dictionaries(stages, st.sampled_from(REPLIES)),
    drop=st.none() | stages,
    places=st.dictionaries(stages, st.sets(st.integers(1, 30), max_size=4)),
    sizes=st.lists(st.sampled_from([0, 0, 0, 3000, 70_000, 150_000]), min_size=1, max_size=20),
    limit=st.sampled_from([1, 2, 8, 64]),
    chunking=st.booleans(),
)
@example(  # a server that takes the rest of a letter after it has refused its first chunk
    replies={"bdat": REPLIES[0]}, drop=None, places={"bdat": {1, 2, 3}}, sizes=[0, 0, 150_000], limit=1, chunking=True
)
def test_each_letter_has_one_outcome(replies, drop, places, sizes, limit, chunking) -> None:
    replies = {stage: reply for stage, reply in replies.items() if stage not in ("mid-data", "after-accept")}
    only = {stage: places.get(stage, set()) for stage in (*replies, drop) if stage}
    server = SmtpServer(faults=SmtpFaults(replies=replies, drop=drop, only=only))
    letters = [Paper(number, size=size, cut=100_000) for number, size in enumerate(sizes)]
    with session(server, chunking=chunking, data_timeout=0.3, timeout=0.3) as submission:
        flight = fly(submission, letters, limit)
        alive = submission.alive
    check(server, flight, limit)
    assert not set(flight.outcomes) & set(flight.unsent)
    if alive:
        assert len(flight.outcomes) == len(letters)
        assert not flight.numbers("in_doubt")

"""A signal in the middle of a pass: it ends within two seconds, nothing is committed, and the next pass completes it."""

from __future__ import annotations

import signal
import time

import pytest

from tests.poll.world import POSIX, Pop3Faults, SmtpFaults, World, finished, settled

pytestmark = [
    pytest.mark.skipif(not POSIX, reason="these signals can't be sent to one process on Windows"),
    pytest.mark.usefixtures("by_data"),
]

MOMENTS = {
    "greeting": (Pop3Faults(no_greeting=True), SmtpFaults()),
    "login": (Pop3Faults(replies={"UIDL": "hang"}), SmtpFaults()),
    "download": (Pop3Faults(retr={3: "hang-mid"}), SmtpFaults()),
    "slow-download": (Pop3Faults(retr={3: "drip"}), SmtpFaults()),
    "smtp-greeting": (Pop3Faults(), SmtpFaults(hang="greeting")),
    "submission": (Pop3Faults(), SmtpFaults(hang="rcpt", only={"rcpt": (3,)})),
    "end-of-data": (Pop3Faults(), SmtpFaults(hang="end-of-data", only={"end-of-data": (3,)})),
    "after-accept": (Pop3Faults(), SmtpFaults(hang="after-accept", only={"after-accept": (3,)})),
    "deletion": (Pop3Faults(replies={"DELE": "hang"}), SmtpFaults()),
    "quit": (Pop3Faults(quit="hang"), SmtpFaults()),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["int", "term"])
def test_a_signal_in_the_middle(world: World, moment: str, number: signal.Signals, code: int) -> None:
    world.timeout = 30
    world.letters(4)
    world.pop3.faults, world.smtp.faults = MOMENTS[moment]
    running = world.start()
    settled(world, running)
    began = time.monotonic()
    running.send_signal(number)
    done = finished(running)
    assert time.monotonic() - began < 2
    done.ended(code, "stopped by a signal; what was accepted is recorded, the rest is still on the server")
    assert not any(session.quit for session in world.pop3.sessions)
    if moment != "quit":
        assert not any("QUIT" in session.verbs for session in world.pop3.sessions)
    assert world.left == ["u1", "u2", "u3", "u4"]
    assert world.kept("badmail") == []
    in_doubt = moment in ("end-of-data", "after-accept")
    while not all(session.ended for session in world.pop3.sessions):
        time.sleep(0.01)
    world.config.unlink()
    world.timeout = 2
    world.recovers(repeated=int(in_doubt))


def test_the_json_document_is_whole_all_the_same(world: World) -> None:
    world.timeout = 30
    world.letters(2)
    world.pop3.faults = Pop3Faults(retr={2: "hang-mid"})
    running = world.start("--json")
    settled(world, running)
    running.send_signal(signal.SIGTERM)
    done = finished(running)
    assert done.code == 143
    assert done.document["exit_code"] == 143
    assert done.document["connectors"][0]["reason"] == "stopped"


def test_the_second_connector_is_not_begun(world: World) -> None:
    world.timeout = 30
    world.letters(2)
    world.pop3.faults = Pop3Faults(retr={2: "hang-mid"})
    world.more = world.tables("a_first")
    running = world.start("--jobs", "1")
    settled(world, running)
    running.send_signal(signal.SIGINT)
    assert finished(running).code == 130
    assert len(world.pop3.sessions) == 1


def test_a_second_signal_changes_nothing(world: World) -> None:
    world.timeout = 30
    world.letters(2)
    world.pop3.faults = Pop3Faults(retr={2: "hang-mid"})
    running = world.start()
    settled(world, running)
    running.send_signal(signal.SIGTERM)
    running.send_signal(signal.SIGINT)
    done = finished(running)
    assert done.code in (130, 143)
    assert "Traceback" not in done.err
    assert world.left == ["u1", "u2"]

"""[connector.NAME.routing], what is refused in it alone and in combination; and the keys about mail that is not accepted."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from poprep_cli.cli.config import config
from poprep_cli.cli.settings import Settings
from poprep_cli.config.edit import holds_secret, set_value
from poprep_cli.config.load import load
from poprep_cli.config.model import DEFAULT_HEADERS, Delivery, Routing, Secret, Smtp, secrets_of
from poprep_cli.errors import ConfigError
from tests.config.samples import GOOD, with_smtp, without, write

posix = pytest.mark.skipif(os.name != "posix", reason="file modes say nothing on Windows")

SRS = 'sender = "srs"\nsrs_domain = "srs.example"\nsrs_secret = "s3cret-too"'
KEY = "connector.office.routing"


def with_routing(lines: str, *, send_to: bool = True) -> str:
    """Return GOOD with more lines in [connector.office.routing]: from line 11, without `send_to` from line 10."""
    return (GOOD if send_to else without("send_to")) + lines + "\n"


def routing(folder: Path, lines: str, *, send_to: bool = True) -> Routing:
    (office,) = load(write(folder, with_routing(lines, send_to=send_to))).connectors
    return office.routing


def faults(folder: Path, text: str) -> list[str]:
    """Return what is said about a configuration, a fault a line, without the path of the file."""
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text))
    assert "s3cret" not in str(caught.value)
    return str(caught.value).replace(str(folder / "poprep.toml"), "FILE").splitlines()


# --- what may be -----------------------------------------------------------------------------------------------------


def test_without_any_key_all_goes_to_send_to(tmp_path: Path) -> None:
    assert routing(tmp_path, "") == Routing(send_to=("office@corp.example",))
    assert Routing().headers == DEFAULT_HEADERS
    assert (Routing().source_domain, Routing().no_match, Routing().sender) == ("", "send_to", "keep")


def test_every_key(tmp_path: Path) -> None:
    lines = (
        'source_domain = "Example.net"\ntarget_domain = "bücher.example."\nheaders = ["X-Real-To", "To"]\n'
        f'trusted_header = "Delivered-To:2"\nprefix = "m1234-"\nno_match = "hold"\n{SRS}'
    )
    assert routing(tmp_path, lines) == Routing(
        send_to=("office@corp.example",),
        source_domain="Example.net",
        target_domain="bücher.example.",
        headers=("X-Real-To", "To"),
        trusted_header="Delivered-To:2",
        prefix="m1234-",
        no_match="hold",
        sender="srs",
        srs_domain="srs.example",
        srs_secret=Secret(value="s3cret-too"),
    )


@pytest.mark.parametrize("no_match", ["badmail", "discard", "hold"])
@pytest.mark.parametrize("lines", ["", "send_to = []\n"])
def test_send_to_may_be_missing_where_nothing_goes_there(tmp_path: Path, no_match: str, lines: str) -> None:
    lines += f'source_domain = "example.net"\nno_match = "{no_match}"'
    assert routing(tmp_path, lines, send_to=False).send_to == ()


def test_defaults_that_are_written_out_need_nothing_else(tmp_path: Path) -> None:
    names = ", ".join(f'"{name}"' for name in DEFAULT_HEADERS)
    lines = (
        f'headers = [{names}]\nno_match = "send_to"\nsource_domain = ""\ntarget_domain = ""\ntrusted_header = ""\n'
        'prefix = ""\nsrs_domain = ""'
    )
    assert routing(tmp_path, lines) == Routing(send_to=("office@corp.example",))


@pytest.mark.parametrize(
    "domain",
    ["example.net", "EXAMPLE.net.", "intranet", "a_b.example", "xn--mller-kva.example", "müller.example", "straße.example",
     "例え.example", "हिन्दी.example", "[192.0.2.1]", "[IPv6:2001:db8::1]", "a" * 63 + ".example", f"{'a.' * 126}a"],
)  # fmt: skip
@pytest.mark.parametrize("key", ["source_domain", "target_domain", "srs_domain"])
def test_domains(tmp_path: Path, key: str, domain: str) -> None:
    others = {"source_domain": "", "target_domain": 'source_domain = "a"\n', "srs_domain": SRS.replace("srs_d", "# ")}
    assert getattr(routing(tmp_path, f'{others[key]}\n{key} = "{domain}"'), key) == domain


@pytest.mark.parametrize("text", ["Delivered-To", "delivered-TO:1", "X-Original-To:9999", "X.To:10", "!#$%&'*+:7"])
def test_trusted_headers(tmp_path: Path, text: str) -> None:
    assert routing(tmp_path, f'source_domain = "a"\ntrusted_header = "{text}"').trusted_header == text


# --- what may not be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["source_domain", "target_domain", "srs_domain"])
@pytest.mark.parametrize(
    "domain",
    [" ", ".", "exa mple", "<corp>", "a..b", "-a", "a-", "a@b", "a,b", "a:b", "[", "[x y]", "[]", "☃", "⑴", "a\u2024b", "a。b",
     "ü_ü", "a" * 64, "ü" * 64, f"{'a.' * 127}a", "a" * 9_999, "a\\u0000", "a\\r\\nRCPT TO:<b>", "*.example"],
)  # fmt: skip
def test_domains_that_are_none(tmp_path: Path, key: str, domain: str) -> None:
    (told,) = [line for line in faults(tmp_path, with_routing(f'{key} = "{domain}"')) if f"{KEY}.{key}" in line]
    assert told.startswith(f"FILE:11: {KEY}.{key}: ")
    assert told.endswith(" not allowed; allowed: a domain such as example.net; empty: none")
    assert len(told) < 250


@pytest.mark.parametrize(
    "text", [":1", "To:", "To:0", "To:-1", "To:10000", "To:one", "To:01", "De livered:1", "Zü:1", "To:1:1", "To:1\\n"]
)
def test_trusted_headers_that_are_none(tmp_path: Path, text: str) -> None:
    (told,) = faults(tmp_path, with_routing(f'trusted_header = "{text}"'))
    assert told.startswith(f"FILE:11: {KEY}.trusted_header: ")
    assert "1 to 9999, such as Delivered-To:1" in told


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('headers = ["To:"]', "a header field's name, such as To"),
        ('headers = ["X To"]', "a header field's name"),
        ('headers = ["Än"]', "a header field's name"),
        ('headers = [""]', "a header field's name"),
        ('headers = ["To\\nCc"]', "a line break or NUL is not allowed"),
        ('headers = ["To", "To"]', '"To" is there twice; allowed: each once'),
        ("headers = []", "an empty list is not allowed"),
        ('headers = "To"', "allowed: a list"),
        ('no_match = "drop"', '"drop" is not allowed; allowed: "send_to", "badmail", "discard", "hold"'),
        ("prefix = 'a b'", "up to 64 characters"),
        ('prefix = "a@"', "up to 64 characters"),
        ("prefix = 1", "1 is not allowed"),
        (f'prefix = "{"a" * 65}"', "up to 64 characters"),
        ('sender = "SRS"', '"keep", "null", "srs", or an address'),
        ("srs_secret = 5", "a text, or { env = ... }"),
        ('srs_secret = ""', "an empty one is not allowed"),
        ('srs_secret = "s3cret\\n"', "a line break or NUL"),
        ('srs_secret = { envy = "X" }', "exactly one key"),
        ('target_domian = "a"', "did you mean target_domain?"),
        ("tls = 1", "it belongs into [connector.office.pop3] or [connector.office.smtp]"),
    ],
)
def test_values_that_may_not_be(tmp_path: Path, line: str, told: str) -> None:
    (fault,) = faults(tmp_path, with_routing(line))
    assert fault.startswith(f"FILE:11: {KEY}.{line.partition(' ')[0]}: ")
    assert told in fault


ALONE = "this key is of no use alone; needed: source_domain, the domain of the recipients in the header"
ALONE_SRS = 'this key is of no use alone; needed: sender = "srs"'


@pytest.mark.parametrize(
    "line",
    [
        'target_domain = "corp.example"',
        'trusted_header = "To"',
        'no_match = "hold"',
        'headers = ["To"]',
        'prefix = "m-"',
    ],
)
@pytest.mark.parametrize("more", ["", '\nsource_domain = ""'])
def test_what_needs_a_source_domain(tmp_path: Path, line: str, more: str) -> None:
    assert faults(tmp_path, with_routing(line + more)) == [f"FILE:11: {KEY}.{line.partition(' ')[0]}: {ALONE}"]


@pytest.mark.parametrize("sender", ["", 'sender = "keep"\n', 'sender = "null"\n', 'sender = "a@b.example"\n'])
@pytest.mark.parametrize("line", ['srs_domain = "srs.example"', 'srs_secret = { env = "X" }', 'srs_secret = "s3cret"'])
def test_what_needs_srs(tmp_path: Path, sender: str, line: str) -> None:
    number = 11 + sender.count("\n")
    assert faults(tmp_path, with_routing(sender + line)) == [
        f"FILE:{number}: {KEY}.{line.partition(' ')[0]}: {ALONE_SRS}"
    ]


def test_what_srs_needs(tmp_path: Path) -> None:
    missing = 'missing; needed with sender = "srs": '
    domain = f"FILE:9: {KEY}.srs_domain: {missing}a domain such as example.net"
    secret = f"FILE:9: {KEY}.srs_secret: {missing}a text, or {{ env = ... }}, {{ file = ... }}, {{ command = ... }} or {{ keyring = ... }}"
    assert faults(tmp_path, with_routing('sender = "srs"')) == [domain, secret]
    assert faults(tmp_path, with_routing('sender = "srs"\nsrs_domain = "a.example"')) == [secret]
    assert faults(tmp_path, with_routing('sender = "srs"\nsrs_secret = "s3cret"')) == [domain]
    empty = faults(tmp_path, with_routing('sender = "srs"\nsrs_secret = "s3cret"\nsrs_domain = ""'))
    assert empty == [domain.replace("FILE:9", "FILE:13")]


ADDRESSES = "a list, each of it an address such as a@corp.example, without < and >"
OTHERS = '"badmail", "discard" or "hold"'


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("", "FILE:9: KEY: missing; needed: a list, each of it an address "),
        ("send_to = []", "FILE:10: KEY: an empty list is not allowed; needed: a list, each of it an address "),
        ('source_domain = "a"', f"FILE:9: KEY: missing; needed: {ADDRESSES}, or no_match = {OTHERS}"),
        ('source_domain = "a"\nsend_to = []', "FILE:11: KEY: an empty list is not allowed; needed: a list, each of it "),
        ('source_domain = "a"\nno_match = "send_to"', "FILE:9: KEY: missing; needed: "),
    ],
)  # fmt: skip
def test_somebody_must_get_the_mail(tmp_path: Path, lines: str, told: str) -> None:
    (fault,) = faults(tmp_path, with_routing(lines, send_to=False))
    assert fault.startswith(told.replace("KEY", f"{KEY}.send_to"))


def test_a_key_that_is_wrong_has_one_fault(tmp_path: Path) -> None:
    for line in ('source_domain = "a b"\nno_match = "hold"', 'sourec_domain = "a"\ntarget_domain = "b"'):
        assert len(faults(tmp_path, with_routing(line))) == 1
    assert len(faults(tmp_path, with_routing('source_domain = "a"\nno_match = "x"', send_to=False))) == 1
    assert len(faults(tmp_path, with_routing('sent_to = ["a@b"]', send_to=False))) == 1
    assert len(faults(tmp_path, with_routing(SRS.replace('"srs"', '"SRS"')))) == 1
    assert len(faults(tmp_path, with_routing(SRS.replace("srs.example", "srs example")))) == 1


def test_a_table_that_is_none(tmp_path: Path) -> None:
    text = "connector.office.routing = 3\n" + GOOD.partition("[connector.office.routing]")[0]
    assert faults(tmp_path, text) == [
        "FILE:1: connector.office.routing: 3 is not allowed; allowed is a table: [connector.office.routing]"
    ]


# --- the secret ------------------------------------------------------------------------------------------------------


@posix
def test_a_secret_of_srs_in_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    text = with_routing(SRS).replace('"s3cret-word"', '{ env = "X" }')
    path = write(tmp_path, text, mode=0o640)
    with pytest.raises(
        ConfigError, match=r":13: connector\.office\.routing\.srs_secret: others can read this file"
    ) as told:
        load(path)
    assert told.value.hint == f"chmod 600 {path}"
    write(tmp_path, text.replace('"s3cret-too"', '{ file = "x" }'), mode=0o640)
    assert load(path).connectors


def test_the_secrets_of_a_connector(tmp_path: Path) -> None:
    (office,) = load(write(tmp_path, with_routing(SRS))).connectors
    assert list(secrets_of(office)) == [
        ("connector.office.pop3.password", Secret(value="s3cret-word"), "office"),
        ("connector.office.routing.srs_secret", Secret(value="s3cret-too"), ""),
    ]
    assert "s3cret" not in repr(office)
    assert holds_secret("connector.office.routing.srs_secret")


def run(path: Path, *args: str, given: str | None = None) -> tuple[int, str, str]:
    settings = Settings(config=path, state_dir=None, verbosity=0, quiet=False)
    result = CliRunner().invoke(config, args, obj=settings, input=given, catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def test_check_looks_for_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, with_routing(SRS.replace('"s3cret-too"', '{ env = "POPREP_WORD" }')))
    monkeypatch.delenv("POPREP_WORD", raising=False)
    with pytest.raises(ConfigError, match=r"connector\.office\.routing\.srs_secret: the environment variable"):
        run(path, "check")
    monkeypatch.setenv("POPREP_WORD", "s3cret-too")
    assert run(path, "check")[0] == 0


def test_show_masks_the_secret_and_means_the_same(tmp_path: Path) -> None:
    path = write(
        tmp_path, with_routing(SRS + '\nsource_domain = "example.net"') + "[connector.office.smtp]\nmax_in_flight = 3\n"
    )
    (before,) = load(path).connectors
    _, shown, _ = run(path, "show")
    assert "s3cret" not in shown
    office = tomllib.loads(shown)["connector"]["office"]
    assert office["routing"]["srs_secret"] == "********"
    assert office["routing"]["headers"] == list(DEFAULT_HEADERS)
    assert (office["smtp"]["max_in_flight"], office["delivery"]["retry_days"]) == (3, 5)
    write(tmp_path, shown.replace('srs_secret = "********"', 'srs_secret = "s3cret-too"'))
    (after,) = load(path).connectors
    assert (after.routing, after.delivery, after.smtp) == (before.routing, before.delivery, before.smtp)
    plain = run(write(tmp_path, GOOD), "show")[1]
    assert "# srs_secret is not set\n" in plain
    assert 'max_in_flight = "auto"\n' in plain
    write(tmp_path, plain)
    assert load(path).connectors[0].routing == Routing(send_to=("office@corp.example",))


def test_set_in_any_order(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    code, _, said = run(path, "set", f"{KEY}.srs_secret", "-", given="s3cret-too\n")
    assert (code, said) == (0, f"poprep: warning: not complete yet: {KEY}.srs_secret: {ALONE_SRS}\n")
    assert set_value(path, f"{KEY}.sender", "srs") == (
        f'{KEY}.srs_domain: missing; needed with sender = "srs": a domain such as example.net',
    )
    assert set_value(path, f"{KEY}.srs_domain", "srs.example") == ()
    assert set_value(path, f"{KEY}.target_domain", "corp.example") == (f"{KEY}.target_domain: {ALONE}",)
    assert set_value(path, f"{KEY}.source_domain", "example.net") == ()
    assert set_value(path, f"{KEY}.headers", "X-Real-To,To") == ()
    assert set_value(path, f"{KEY}.trusted_header", "Delivered-To:1") == ()
    assert len(set_value(path, f"{KEY}.send_to", "[]")) == 1
    assert set_value(path, f"{KEY}.no_match", "badmail") == ()
    assert set_value(path, f"{KEY}.prefix", "1234") == ()
    (office,) = load(path).connectors
    assert (office.routing.headers, office.routing.prefix) == (("X-Real-To", "To"), "1234")
    before = path.read_text()
    with pytest.raises(ConfigError, match="a domain such as"):
        set_value(path, f"{KEY}.source_domain", "a b")
    assert path.read_text() == before


# --- mail that is not accepted, and how much is in flight ------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 64, "auto"])
def test_max_in_flight(tmp_path: Path, number: int | str) -> None:
    path = write(tmp_path, GOOD)
    assert load(path).connectors[0].smtp.max_in_flight == "auto" == Smtp(addresses=()).max_in_flight
    assert set_value(path, "smtp.max_in_flight", str(number)) == ()
    assert tomllib.loads(path.read_text())["smtp"]["max_in_flight"] == number
    assert load(path).connectors[0].smtp.max_in_flight == number


@pytest.mark.parametrize("value", ["0", "65", "-1", "1.0", "true", '"8"', '"AUTO"', "[]", "nan", "1979-05-27"])
def test_max_in_flight_that_may_not_be(tmp_path: Path, value: str) -> None:
    (told,) = faults(tmp_path, with_smtp(f"max_in_flight = {value}"))
    assert told.startswith("FILE:3: smtp.max_in_flight: ")
    assert told.endswith(' is not allowed; allowed: "auto", or a whole number from 1 to 64')


def test_a_connector_overrides_max_in_flight_alone(tmp_path: Path) -> None:
    text = with_smtp("max_in_flight = 4\ntimeout = 7") + '[connector.office.smtp]\nmax_in_flight = "auto"\n'
    smtp = load(write(tmp_path, text)).connectors[0].smtp
    assert (smtp.max_in_flight, smtp.timeout) == ("auto", 7)
    smtp = load(write(tmp_path, text.replace('max_in_flight = "auto"', 'helo = "a"'))).connectors[0].smtp
    assert (smtp.max_in_flight, smtp.helo) == (4, "a")
    (told,) = faults(tmp_path, text.replace('"auto"', "65"))
    assert told.startswith("FILE:14: connector.office.smtp.max_in_flight: 65 ")


@pytest.mark.parametrize("number", [1, 16])
def test_connections(tmp_path: Path, number: int) -> None:
    path = write(tmp_path, GOOD)
    assert load(path).connectors[0].smtp.connections == 1 == Smtp(addresses=()).connections
    assert set_value(path, "smtp.connections", str(number)) == ()
    assert load(path).connectors[0].smtp.connections == number


@pytest.mark.parametrize("value", ["0", "17", "-1", "1.0", "true", '"8"', '"auto"', "[]"])
def test_connections_that_may_not_be(tmp_path: Path, value: str) -> None:
    (told,) = faults(tmp_path, with_smtp(f"connections = {value}"))
    assert told.startswith("FILE:3: smtp.connections: ")
    assert told.endswith(" is not allowed; allowed: a whole number from 1 to 16")


def test_a_connector_overrides_connections_alone(tmp_path: Path) -> None:
    text = with_smtp("connections = 4\nmax_in_flight = 7") + "[connector.office.smtp]\nconnections = 2\n"
    smtp = load(write(tmp_path, text)).connectors[0].smtp
    assert (smtp.connections, smtp.max_in_flight) == (2, 7)


DELIVERY = "[connector.office.delivery]\n"


@pytest.mark.parametrize("rule", ["badmail", "keep", "discard"])
@pytest.mark.parametrize("days", [0, 1, 36_500])
def test_delivery(tmp_path: Path, rule: str, days: int) -> None:
    assert (Delivery().on_reject, Delivery().retry_days) == ("badmail", 5)
    text = GOOD + DELIVERY + f'on_reject = "{rule}"\nretry_days = {days}\n'
    delivery = load(write(tmp_path, text)).connectors[0].delivery
    assert (delivery.on_reject, delivery.retry_days) == (rule, days)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('on_reject = "bounce"', '"bounce" is not allowed; allowed: "badmail", "keep", "discard"'),
        ("on_reject = true", 'true is not allowed; allowed: "badmail", "keep", "discard"'),
        ("retry_days = -1", "-1 is not allowed; allowed: a whole number of days, from 0 to 36500"),
        ("retry_days = 36501", "36501 is not allowed"),
        ("retry_days = 0.5", "0.5 is not allowed"),
        ('retry_days = "5"', '"5" is not allowed'),
    ],
)
def test_delivery_that_may_not_be(tmp_path: Path, line: str, told: str) -> None:
    (fault,) = faults(tmp_path, GOOD + DELIVERY + line + "\n")
    assert fault.startswith(f"FILE:12: connector.office.delivery.{line.partition(' ')[0]}: {told}")

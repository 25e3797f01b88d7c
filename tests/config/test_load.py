"""Reading poprep.toml: what good files mean, and what is said about bad ones."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poprep_cli.config.load import examine, load
from poprep_cli.config.model import Address, Config, Connector, Secret, TlsSettings
from poprep_cli.config.weaknesses import weaknesses
from poprep_cli.errors import ConfigError, ExitCode
from tests.config.samples import GOOD, with_pop3, with_smtp, without, write

posix = pytest.mark.skipif(os.name != "posix", reason="file modes say nothing on Windows")


def only(text: str, folder: Path) -> Connector:
    (connector,) = load(write(folder, text)).connectors
    return connector


def refused(text: str | bytes, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(write(folder, text))
    assert caught.value.exit_code == ExitCode.CONFIG
    return str(caught.value).replace(str(folder / "poprep.toml"), "FILE")


# --- good files -----------------------------------------------------------------------------------------------------


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    config = load(write(tmp_path, GOOD))
    (office,) = config.connectors
    assert config.path == str(tmp_path / "poprep.toml")
    assert office.name == "office"
    assert office.enabled
    assert office.pop3.address == Address("pop.example.net", 110)
    assert office.pop3.tls == "required"
    assert office.pop3.auth[0] == "scram-sha-256-plus"
    assert office.pop3.auth[-1] == "user"
    assert "external" not in office.pop3.auth
    assert office.pop3.password == Secret(value="s3cret-word")
    assert office.smtp.addresses == (Address("mail.example.com", 25),)
    assert office.server_copy.leave_copy
    assert office.routing.send_to == ("office@corp.example",)


def test_a_connector_overrides_single_keys_of_the_global_smtp_table(tmp_path: Path) -> None:
    text = (
        with_smtp('timeout = 7\nhelo = "a.example"') + '[connector.office.smtp]\nhelo = "b.example"\ntls = "wanted"\n'
    )
    smtp = only(text, tmp_path).smtp
    assert (smtp.addresses, smtp.timeout, smtp.helo, smtp.tls) == (
        (Address("mail.example.com", 25),),
        7,
        "b.example",
        "wanted",
    )


def test_smtp_may_be_given_in_the_connector_only(tmp_path: Path) -> None:
    text = (
        without("[smtp]").replace('host = "mail.example.com"\n', "") + '[connector.office.smtp]\nhost = "m.example"\n'
    )
    assert only(text, tmp_path).smtp.addresses == (Address("m.example", 25),)


@pytest.mark.parametrize(
    ("host", "ssl", "address"),
    [
        ("pop.example.net", False, Address("pop.example.net", 110)),
        ("POP.example.net", True, Address("pop.example.net", 995)),
        ("pop.example.net:1110", True, Address("pop.example.net", 1110)),
        ("[::1]:2110", False, Address("::1", 2110)),
        ("[2001:DB8:0::1]", False, Address("2001:db8::1", 110)),
        ("::1", False, Address("::1", 110)),
        ("0:0:0:0:0:0:0:1", True, Address("::1", 995)),
        ("fe80::1%eth0", False, Address("fe80::1%eth0", 110)),
        ("192.0.2.7:65535", False, Address("192.0.2.7", 65535)),
        ("bücher.example", False, Address("bücher.example", 110)),
    ],
)
def test_pop3_host(tmp_path: Path, host: str, ssl: bool, address: Address) -> None:
    text = with_pop3(f"ssl = {str(ssl).lower()}").replace("pop.example.net", host)
    assert only(text, tmp_path).pop3.address == address


@pytest.mark.parametrize(
    ("lines", "addresses", "tls"),
    [
        ('host = "mx.example"', ["mx.example:25"], "required"),
        ('host = "mx.example"\nssl = true', ["mx.example:465"], "required"),
        ('host = ["a.example", "b.example:26"]', ["a.example:25", "b.example:26"], "required"),
        ('host = "localhost"\nprotocol = "lmtp"', ["localhost:24"], "off"),
        ('host = "unix:/run/lmtp"\nprotocol = "lmtp"', ["unix:/run/lmtp"], "off"),
        ('host = ["127.0.0.1", "[::1]:2525"]', ["127.0.0.1:25", "[::1]:2525"], "off"),
        ('host = ["127.0.0.1", "mx.example"]', ["127.0.0.1:25", "mx.example:25"], "required"),
        ('host = "localhost"\ntls = "required"', ["localhost:25"], "required"),
    ],
)
def test_smtp_host_port_and_default_of_tls(tmp_path: Path, lines: str, addresses: list[str], tls: str) -> None:
    smtp = only(GOOD.replace('host = "mail.example.com"', lines), tmp_path).smtp
    assert [str(address) for address in smtp.addresses] == addresses
    assert smtp.tls == tls


def test_flat_tls_keys_are_gathered_and_normalised(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    (tmp_path / "me.pem").touch()
    colons = ":".join(["AB"] * 32)
    text = with_pop3(
        f'tls_ca_file = "ca.pem"\ntls_fingerprint = "{colons}"\ntls_verify = false\ntls_client_cert = "me.pem"\n'
        'tls_client_key = "me.pem"\ntls_min_version = "1.3"'
    )
    me = str(tmp_path / "me.pem")
    assert only(text, tmp_path).pop3.tls_settings == TlsSettings(
        ca_file=str(tmp_path / "ca.pem"),
        fingerprint="ab" * 32,
        verify=False,
        client_cert=me,
        client_key=me,
        min_version="1.3",
    )


@pytest.mark.parametrize(
    ("toml", "secret"),
    [
        ('"text"', Secret(value="text")),
        ('{ env = "NAME" }', Secret(env="NAME")),
        ('{ file = "a/b" }', Secret(file="a/b")),
        ('{ command = "pass show x" }', Secret(command="pass show x")),
        ('{ command = ["pass", "show x"] }', Secret(command=("pass", "show x"))),
        ('{ keyring = "poprep" }', Secret(keyring="poprep")),
    ],
)
def test_secret_sources(tmp_path: Path, toml: str, secret: Secret) -> None:
    assert only(GOOD.replace('"s3cret-word"', toml), tmp_path).pop3.password == secret


@pytest.mark.parametrize("sender", ["keep", "null", "a@b.example", "jürgen@bücher.example", "a@[192.0.2.1]", '"a@b"@c'])
def test_sender(tmp_path: Path, sender: str) -> None:
    assert only(GOOD + f"sender = '{sender}'\n", tmp_path).routing.sender == sender


def test_byte_order_mark_and_crlf_are_accepted(tmp_path: Path) -> None:
    data = b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()
    assert len(load(write(tmp_path, data)).connectors) == 1


def test_relative_files_start_at_the_link_not_at_its_target(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("symbolic links need a privilege on Windows")
    elsewhere = tmp_path / "data"
    elsewhere.mkdir()
    target = write(elsewhere, with_pop3('tls_ca_file = "ca.pem"'))
    (tmp_path / "ca.pem").touch()
    link = tmp_path / "link.toml"
    link.symlink_to(target)
    assert load(link).connectors[0].pop3.tls_settings.ca_file == str(tmp_path / "ca.pem")


# --- bad files ------------------------------------------------------------------------------------------------------

HEX = "ab" * 32
FAULTS = [
    # text, line, key, what has to be told
    pytest.param(
        with_pop3('tls = "requird"'), 8, "connector.office.pop3.tls", '"required", "wanted", "off"', id="value"
    ),
    pytest.param(with_pop3("tls = true"), 8, "connector.office.pop3.tls", "true is not allowed", id="type"),
    pytest.param(with_pop3('ssl = "yes"'), 8, "connector.office.pop3.ssl", "allowed: true or false", id="bool"),
    pytest.param(with_pop3("timeout = 0"), 8, "connector.office.pop3.timeout", "above 0", id="timeout"),
    pytest.param(with_pop3("timeout = nan"), 8, "connector.office.pop3.timeout", "nan is not allowed", id="nan"),
    pytest.param(with_pop3("timeout = inf"), 8, "connector.office.pop3.timeout", "inf is not allowed", id="inf"),
    pytest.param(
        with_pop3("timeout = 2020-01-01"), 8, "connector.office.pop3.timeout", "a date or time is not", id="date"
    ),
    pytest.param(with_pop3("auth = []"), 8, "connector.office.pop3.auth", "an empty list is not allowed", id="no-auth"),
    pytest.param(
        with_pop3('auth = ["apop", "apop"]'), 8, "connector.office.pop3.auth", '"apop" is there twice', id="twice"
    ),
    pytest.param(with_pop3('auth = ["ntml"]'), 8, "connector.office.pop3.auth", '"ntml" is not allowed', id="method"),
    pytest.param(with_pop3('auth = "apop"'), 8, "connector.office.pop3.auth", "allowed: a list", id="no-list"),
    pytest.param(with_smtp('password = "s3cret-word"\nauth = 1'), 4, "smtp.auth", "1 is not allowed", id="smtp-auth"),
    pytest.param(with_pop3('pasword = "x"'), 8, "connector.office.pop3.pasword", "did you mean password?", id="typo"),
    pytest.param(
        with_pop3("send_to = 1"), 8, "connector.office.pop3.send_to", "[connector.office.routing]", id="misplaced"
    ),
    pytest.param(
        with_pop3('tls_client_key = "poprep.toml"'),
        8,
        "connector.office.pop3.tls_client_key",
        "tls_client_cert",
        id="key",
    ),
    pytest.param(
        with_pop3('tls_ca_file = "none"'), 8, "connector.office.pop3.tls_ca_file", "there is no file", id="no-ca"
    ),
    pytest.param(
        with_pop3('tls_ca_file = "."'), 8, "connector.office.pop3.tls_ca_file", "there is no file", id="ca-folder"
    ),
    pytest.param(
        with_pop3(f'tls_fingerprint = "{HEX[1:]}"'), 8, "connector.office.pop3.tls_fingerprint", "64 hexa", id="print"
    ),
    pytest.param(with_smtp('helo = "a b"'), 3, "smtp.helo", "a host name", id="helo"),
    pytest.param(with_smtp('helo = "a\\r\\nMAIL FROM:<>"'), 3, "smtp.helo", "line break", id="helo-crlf"),
    pytest.param(with_smtp("port = 25"), 3, "smtp.port", "unknown key; allowed: host, ssl, tls", id="unknown"),
    pytest.param(with_smtp('protocol = "lmtp"\nssl = 1'), 4, "smtp.ssl", "1 is not allowed", id="number-for-bool"),
    pytest.param(GOOD.replace("mail.example.com", "unix:/x"), 2, "smtp.host", 'protocol = "lmtp"', id="unix-smtp"),
    pytest.param(
        GOOD.replace("pop.example.net", "unix:/x"), 5, "connector.office.pop3.host", "unix socket", id="unix-pop3"
    ),
    pytest.param(
        with_smtp('protocol = "lmtp"').replace("mail.example.com", "m.example:25"),
        2,
        "smtp.host",
        "RFC 2033",
        id="lmtp-25",
    ),
    pytest.param(
        with_smtp('protocol = "lmtp"\nssl = true').replace("mail.example.com", "unix:/x"),
        2,
        "smtp.host",
        "ssl",
        id="unix-ssl",
    ),
    pytest.param(GOOD.replace('"mail.example.com"', "[]"), 2, "smtp.host", "an empty list", id="no-hosts"),
    pytest.param(GOOD.replace('"mail.example.com"', '["a", "a"]'), 2, "smtp.host", "twice", id="same-hosts"),
    pytest.param(
        GOOD.replace('"office"', '"a\\nPASS b"'), 6, "connector.office.pop3.user", "line break or NUL", id="user-lf"
    ),
    pytest.param(
        GOOD.replace('"office"', '"a\\u0000"'), 6, "connector.office.pop3.user", "line break or NUL", id="user-nul"
    ),
    pytest.param(GOOD.replace('"office"', '""'), 6, "connector.office.pop3.user", "not empty", id="no-user"),
    pytest.param(
        GOOD.replace("s3cret-word", "a\\rb"), 7, "connector.office.pop3.password", "line break or NUL", id="secret-cr"
    ),
    pytest.param(
        GOOD.replace("s3cret-word", ""), 7, "connector.office.pop3.password", "an empty one", id="empty-secret"
    ),
    pytest.param(
        GOOD.replace('"s3cret-word"', "{}"), 7, "connector.office.pop3.password", "exactly one key", id="no-source"
    ),
    pytest.param(
        GOOD.replace('"s3cret-word"', '{ envy = "X" }'), 7, "connector.office.pop3.password", "env, file", id="source"
    ),
    pytest.param(
        GOOD.replace('"s3cret-word"', "{ command = [] }"), 7, "connector.office.pop3.password", "command", id="command"
    ),
    pytest.param(
        GOOD.replace('"s3cret-word"', '{ env = "A=B" }'), 7, "connector.office.pop3.password", "the name", id="env"
    ),
    pytest.param(
        GOOD.replace('"s3cret-word"', '{ value = "A" }'), 7, "connector.office.pop3.password", "exactly", id="inner"
    ),
    pytest.param(GOOD.replace('"s3cret-word"', "42"), 7, "connector.office.pop3.password", "a text, or {", id="number"),
    pytest.param(without("user"), 4, "connector.office.pop3.user", "missing", id="missing-user"),
    pytest.param(without("password"), 4, "connector.office.pop3.password", "missing", id="missing-password"),
    pytest.param(without("send_to"), 9, "connector.office.routing.send_to", "missing", id="missing-send_to"),
    pytest.param(GOOD.replace('host = "mail.example.com"', ""), 1, "smtp.host", "missing", id="missing-smtp-host"),
    pytest.param(GOOD + "[connector.Office]\n", 11, "connector.Office", "more than case", id="same-name"),
    pytest.param(GOOD + '[connector."a b"]\n', 11, 'connector."a b"', "no name for a connector", id="name"),
    pytest.param(GOOD + "[connector.office.smpt]\n", 11, "connector.office.smpt", "did you mean smtp?", id="table"),
    pytest.param(GOOD + "[smtpd]\n", 11, "smtpd", "did you mean smtp?", id="top-table"),
    pytest.param(
        GOOD + "[connector.office.limits]\nmax_octets = -1\n",
        12,
        "connector.office.limits.max_octets",
        "0 (no",
        id="limit",
    ),
    pytest.param(
        GOOD + f"[connector.office.limits]\nmax_octets = {10**30}\n",
        12,
        "connector.office.limits.max_octets",
        "this number",
        id="huge",
    ),
    pytest.param(
        GOOD + "[connector.office]\npoll_every = -1\n", 12, "connector.office.poll_every", "minutes", id="poll_every"
    ),
    pytest.param(
        GOOD + "[[connector.office.limits]]\n", 11, "connector.office.limits", "a list is not allowed", id="array"
    ),
    pytest.param("connector.a = 3\n", 1, "connector.a", "3 is not allowed; allowed is a table", id="no-table"),
    pytest.param("smtp = []\nconnector = 1\n", 2, "connector", "allowed are tables", id="connector-no-table"),
]


@pytest.mark.parametrize(("text", "line", "key", "told"), FAULTS)
def test_a_fault_is_told_with_line_key_and_what_is_allowed(
    tmp_path: Path, text: str, line: int, key: str, told: str
) -> None:
    lines = refused(text, tmp_path).splitlines()
    (mine,) = [each for each in lines if each.startswith(f"FILE:{line}: {key}: ") and told in each]
    assert "s3cret-word" not in mine


@pytest.mark.parametrize(
    "host",
    [
        "", " ", "a b", "a:", ":110", "a:0", "a:65536", "a:99999999999999", "a:pop3", "a:+1", "a:\uff11", "a/b", "[::1", "[::1]x",
        "[::1]:", "[::1]:0", "::g", "1:2:3", "a..b", "-a.example", "a.example-", "1.2.3", "1.2.3.256", "127.0.0.01", "x" * 64,
        "pop3://a", "a\\u0000", "unix:", "unix:relative", "[]", "::1%a b", "fe80::1%\\n",
    ],
)  # fmt: skip
def test_hosts_that_are_none(tmp_path: Path, host: str) -> None:
    told = refused(GOOD.replace("pop.example.net", host), tmp_path)
    assert told.startswith("FILE:5: connector.office.pop3.host: ")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "office",
        "@corp.example",
        "a@",
        "a b@c",
        "a@b c",
        "<a@b>",
        "a@b>",
        "a@b\\r\\nDATA",
        "a@b,c@d",
        "a@b..c",
        "a@-b",
        "a\\u0000@b",
    ],
)
def test_addresses_that_are_none(tmp_path: Path, address: str) -> None:
    assert refused(GOOD.replace("office@corp.example", address), tmp_path).startswith(
        "FILE:10: connector.office.routing.send_to: "
    )
    for_sender = GOOD + f'sender = "{address}"\n'
    assert refused(for_sender, tmp_path).startswith("FILE:11: connector.office.routing.sender: ")


def test_all_faults_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = with_pop3('tls = "x"\ntimeout = -1').replace('host = "mail.example.com"', "helo = 3")
    lines = refused(text, tmp_path).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["FILE:1", "smtp.host"],
        ["FILE:2", "smtp.helo"],
        ["FILE:8", "connector.office.pop3.tls"],
        ["FILE:9", "connector.office.pop3.timeout"],
    ]


def test_a_fault_of_the_global_table_is_told_once(tmp_path: Path) -> None:
    more = "".join(
        f'[connector.c{n}]\npop3 = {{ host = "h", user = "u", password = "p" }}\nrouting.send_to = ["a@b"]\n'
        for n in range(3)
    )
    text = with_smtp('tls_client_key = "poprep.toml"') + more + '[connector.c1.smtp]\nhelo = "x"\n'
    assert refused(text, tmp_path).count("\n") == 0


def test_a_misspelt_required_key_is_not_missing_as_well(tmp_path: Path) -> None:
    assert refused(GOOD.replace("password", "pasword"), tmp_path).count("\n") == 0
    assert refused(GOOD.replace("[smtp]", "[smpt]"), tmp_path).count("\n") == 0
    assert refused(GOOD.replace("connector", "conector"), tmp_path).count("\n") == 0


def test_no_connector_at_all(tmp_path: Path) -> None:
    for text in ("", '[smtp]\nhost = "a"\n', "[connector]\n"):
        assert "there is no connector; each mailbox needs a [connector.NAME] table" in refused(text, tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[smtp\n", "FILE:1: not valid TOML: "),
        ('[smtp]\nhost = "a\n', "FILE:2: not valid TOML: "),
        ("a = 1\na = 2\n", "FILE:2: not valid TOML: "),
        ("[smtp]\nhost = ", "FILE:2: not valid TOML: "),
        ("a = " + "[" * 100_000, "FILE:1: not valid TOML: "),
        ("a = " + "1" * 5_000, "FILE:1: not valid TOML: "),
        (b'[smtp]\nhost = "\xff"\n', "FILE:2: it is not UTF-8 text"),
        (GOOD.encode("utf-16"), "FILE:1: it is not UTF-8 text"),
    ],
)
def test_no_toml(tmp_path: Path, text: str | bytes, told: str) -> None:
    assert refused(text, tmp_path).startswith(told)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file") as caught:
        load(tmp_path / "none.toml")
    assert "poprep demo" in str(caught.value.hint)
    assert "none.toml" in str(caught.value)
    with pytest.raises(ConfigError, match="this is a folder"):
        load(tmp_path)


def test_a_pipe_without_a_writer_does_not_hang(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has no pipes in folders")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="no regular file"):
        load(pipe)


# --- permissions ----------------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_literal_secret_in_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, GOOD, mode=mode)
    with pytest.raises(ConfigError, match="others can read this file") as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}:7: connector.office.pop3.password: ")
    assert caught.value.hint == f"chmod 600 {path}"
    assert "s3cret-word" not in str(caught.value)


@posix
def test_what_counts_is_the_mode_of_the_file_behind_a_link(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, mode=0o644)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(ConfigError, match="others can read"):
        load(link)
    path.chmod(0o400)
    assert load(link).connectors


def test_without_a_literal_secret_anybody_may_read_it(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace('"s3cret-word"', '{ env = "X" }'), mode=0o644)
    assert load(path).connectors


# --- properties -----------------------------------------------------------------------------------------------------

_HERE = Path("poprep.toml")
_names = st.sampled_from(
    ["smtp", "connector", "office", "pop3", "routing", "limits", "host", "tls", "auth", "a.b", '"x y"', "''"]
)
_paths = st.lists(_names, min_size=1, max_size=4).map(".".join)
_values = st.sampled_from(
    [
        "1",
        "-1",
        "true",
        "nan",
        "1e400",
        '"a"',
        '"a:1"',
        "[]",
        '["a"]',
        "[[1]]",
        "{}",
        '{env="X"}',
        "{host=1}",
        "2020-01-01",
        "0x" + "f" * 9_000,
    ]
)
_lines = st.one_of(
    _paths.map("[{}]".format),
    _paths.map("[[{}]]".format),
    st.builds("{} = {}".format, _paths, _values),
    st.text(max_size=20),
)


def _examined(text: str) -> None:
    config, faults = examine(text, _HERE)
    assert isinstance(config, Config) is not bool(faults)


@given(st.text())
def test_any_text_is_a_configuration_or_has_faults(text: str) -> None:
    _examined(text)


@given(st.lists(_lines, max_size=12).map("\n".join))
def test_anything_like_a_configuration_is_one_or_has_faults(text: str) -> None:
    _examined(text)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.one_of(st.binary(max_size=200), st.lists(_lines, max_size=8).map("\n".join).map(lambda text: text.encode()))
)
def test_any_file_is_loaded_or_refused(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path, data)
    with suppress(ConfigError):
        assert load(path).connectors


# --- the rest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('tls = "wanted"', "goes on in the clear"),
        ('tls = "off"', "without encryption"),
        ('tls = "off"\ntls_verify = false', "have no effect"),
        ("tls_verify = false", "pose as the server"),
        ('tls_min_version = "1.0"', "broken"),
        ('clear_text = "allow"', "without encryption"),
    ],
)
def test_weaknesses_are_told(tmp_path: Path, lines: str, told: str) -> None:
    assert any(told in each for each in weaknesses(only(with_pop3(lines), tmp_path)))


@pytest.mark.parametrize(
    "lines",
    [
        "ssl = true",
        'ssl = true\ntls = "off"',
        f'tls_verify = false\ntls_fingerprint = "{HEX}"',
        'tls_min_version = "1.3"',
    ],
)
def test_what_is_as_safe_is_no_weakness(tmp_path: Path, lines: str) -> None:
    assert weaknesses(only(with_pop3(lines), tmp_path)) == ()


def test_loading_imports_nothing_heavy(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    script = (
        "import sys; from pathlib import Path; from poprep_cli.config.load import load; load(Path(sys.argv[1]));"
        "heavy = {'tomlkit', 'rich', 'email', 'asyncio', 'ssl', 'socket', 'importlib.metadata', 'subprocess', 'keyring', 'click'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == ""

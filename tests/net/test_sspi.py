"""The Windows path of NTLM, driven through pyspnego's SSPI code over a fake of the system library under it.

The fake keeps the account of whoever is logged on, and lets pyspnego's own NTLM make the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import spnego
import spnego._sspi
from spnego._ntlm import NTLMProxy
from spnego.channel_bindings import GssChannelBindings

from poprep_cli.config import load
from poprep_cli.config.model import NO_SECRET, Config, Pop3, secrets_of
from poprep_cli.config.secrets import resolve
from poprep_cli.errors import AuthenticationFailed, ConfigError, LocalProtocolError
from poprep_cli.net import ntlm as module
from poprep_cli.net.login import log_in
from poprep_cli.net.ntlm import Ntlm
from poprep_cli.net.stop import Stop
from poprep_cli.protocol.sasl.mechanism import Credentials
from tests.config.samples import GOOD, write
from tests.net.scripted import PASSWORD, Pki, Scripted, logged_in, make_pki, ntlm, ntlm_accounts, settings
from tests.net.test_methods_on_the_wire import assert_version_2, type3

TASK_PASSWORD = "of-the-account-that-runs-the-task"
ACCOUNTS = (f"CORP:office:{PASSWORD}", f"CORP:svc-mail:{TASK_PASSWORD}", f":office@corp.example:{PASSWORD}")
OK, CONTINUE = 0, 0x00090312


class Requests:
    """The flags of a request; which bits they are is nobody's business here."""

    def __getattr__(self, name: str) -> int:
        if name.startswith("ISC_REQ_"):
            return 0
        raise AttributeError(name)


class Secur32:
    """What sspilib offers of Windows, as far as NTLM needs it. `asked` says for whom credentials were acquired."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.targets: list[str] = []
        self.level = 3  # LmCompatibilityLevel of the local policy: below 3 is version 1
        self.logged_on = True

    def module(self) -> SimpleNamespace:
        """Return the fake of the module sspilib."""
        raw = SimpleNamespace(
            CredentialUse=SimpleNamespace(SECPKG_CRED_OUTBOUND="outbound"),
            NtStatus=SimpleNamespace(SEC_E_OK=OK),
            SecBuffer=lambda data, kind: SimpleNamespace(data=bytes(data) if data else b"", kind=kind),
            SecBufferDesc=list,
            SecBufferType=SimpleNamespace(SECBUFFER_TOKEN="token"),
            SecPkgContextSizes="sizes",
            TargetDataRep=SimpleNamespace(SECURITY_NATIVE_DREP=0),
            WinNTAuthIdentity=lambda **identity: identity,
            acquire_credentials_handle=self.acquire,
            initialize_security_context=self.initialize,
            query_context_attributes=lambda _, __: SimpleNamespace(block_size=0, max_signature=16, security_trailer=16),
        )
        return SimpleNamespace(raw=raw, IscReq=Requests(), SecChannelBindings=self.bindings)

    def bindings(self, *, application_data: bytes, **_: object) -> SimpleNamespace:
        """Return channel bindings that can be had as a buffer."""
        return SimpleNamespace(dangerous_get_sec_buffer=lambda: SimpleNamespace(data=application_data, kind="bindings"))

    def acquire(self, *, auth_data: dict[str, Any] | None = None, **how: object) -> SimpleNamespace:
        """Return a handle to an account's credentials: the one that is named, or who is logged on."""
        assert how == {"package": "ntlm", "principal": None, "credential_use": "outbound"}
        if auth_data is None:
            self.asked.append(("logged on",))
            if not self.logged_on:
                raise OSError("no credentials are available in the security package")
            return SimpleNamespace(credential=spnego.Password(r"CORP\svc-mail", TASK_PASSWORD))
        self.asked.append((auth_data["domain"], auth_data["username"], auth_data["password"]))
        name = "\\".join(part for part in (auth_data["domain"], auth_data["username"]) if part)
        return SimpleNamespace(credential=spnego.Password(name, auth_data["password"]))

    def initialize(
        self,
        *,
        credential: spnego.Password,
        context: NTLMProxy | None,
        target_name: str,
        input_buffers: list[SimpleNamespace] | None,
        output_buffers: list[SimpleNamespace],
        **_: object,
    ) -> SimpleNamespace:
        """Make the next token."""
        self.targets.append(target_name)
        given = {buffer.kind: buffer.data for buffer in input_buffers or ()}
        bound = GssChannelBindings(application_data=given["bindings"]) if "bindings" in given else None
        if context is None:
            context = NTLMProxy(credential, channel_bindings=bound)
            context._nt_v1, context._nt_v2 = self.level < 3, self.level >= 3
        output_buffers[0].data = context.step(given.get("token"))
        return SimpleNamespace(status=OK if context.complete else CONTINUE, context=context, attributes=0)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> Secur32:
    """Let pyspnego and our module think that this is Windows."""
    system = Secur32()
    monkeypatch.setattr(spnego._sspi, "HAS_SSPI", True)
    monkeypatch.setattr(spnego._sspi, "sspilib", system.module(), raising=False)
    monkeypatch.setattr(module, "ON_WINDOWS", True)
    monkeypatch.setattr(load, "ON_WINDOWS", True)
    return system


@pytest.fixture
def accounts() -> Iterator[None]:
    with ntlm_accounts(*ACCOUNTS):
        yield


NAMED = [
    ("office", "CORP", ("CORP", "office", PASSWORD)),
    (r"CORP\office", "", ("CORP", "office", PASSWORD)),
    ("office@corp.example", "", (None, "office@corp.example", PASSWORD)),
]


@pytest.mark.usefixtures("accounts")
@pytest.mark.parametrize("name", ["NTLM", "MSN"])
@pytest.mark.parametrize(("user", "domain", "asked"), NAMED)
def test_an_account_that_is_named(windows: Secur32, name: str, user: str, domain: str, asked: tuple[str, ...]) -> None:
    server = Scripted({name: ntlm()}, capa=[name])
    with logged_in(server, name.lower(), user=user, domain=domain) as session:
        assert session.method == name.lower()
    assert windows.asked == [asked]
    assert_version_2(type3(server.exchanges[0].heard[-1]))


@pytest.mark.usefixtures("accounts")
@pytest.mark.parametrize("name", ["NTLM", "MSN"])
def test_the_account_that_runs_the_task(windows: Secur32, name: str) -> None:
    server = Scripted({name: ntlm()}, capa=[name])
    with logged_in(server, name.lower(), user="", password="") as session:
        assert session.method == name.lower()
    assert windows.asked == [("logged on",)]
    message = type3(server.exchanges[0].heard[-1])
    assert (message.domain, message.user) == ("CORP", "svc-mail")
    assert_version_2(message)


@pytest.mark.usefixtures("accounts")
def test_a_named_account_without_a_password_is_not_the_one_that_runs_the_task(windows: Secur32) -> None:
    server = Scripted({"NTLM": ntlm()}, capa=["NTLM"])
    with server, pytest.raises(AuthenticationFailed):
        log_in(settings(server.port, "ntlm", domain="CORP"), "", Stop())
    assert windows.asked == [("CORP", "office", "")]


@pytest.mark.usefixtures("accounts")
def test_it_is_bound_to_the_tls_session(windows: Secur32, tmp_path: Path) -> None:
    pki: Pki = make_pki(tmp_path, "office@corp.example")
    server = Scripted({"NTLM": ntlm(binding=pki.binding)}, capa=["NTLM"], context=pki.context)
    with logged_in(server, "ntlm", ssl=True, tls_settings=pki.trusting, domain="CORP") as session:
        assert session.method == "ntlm"
    other = Scripted({"NTLM": ntlm(binding=bytes(32))}, capa=["NTLM"], context=pki.context)
    with other, pytest.raises(AuthenticationFailed):
        log_in(settings(other.port, "ntlm", ssl=True, tls_settings=pki.trusting, domain="CORP"), PASSWORD, Stop())


@pytest.mark.usefixtures("accounts")
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_policy_that_allows_version_1_sends_none(windows: Secur32, level: int) -> None:
    windows.level = level
    server = Scripted({"NTLM": ntlm()}, capa=["NTLM"], user=True)
    with logged_in(server, "ntlm", "user", domain="CORP") as session:
        assert session.method == "user"
        assert [(failure.method, failure.hung_up) for failure in session.failures] == [("ntlm", False)]
        assert "NTLMv1" in session.failures[0].why
    assert len(server.exchanges[0].heard) == 1  # the negotiate message; then the exchange was cancelled
    assert server.lines == [["CAPA", "AUTH NTLM", "USER", "PASS"]]


def test_nobody_is_logged_on(windows: Secur32) -> None:
    windows.logged_on = False
    with pytest.raises(LocalProtocolError, match="NTLM can't be used on this system"):
        Ntlm("NTLM", Credentials("", ""))


def test_elsewhere_there_is_no_account_that_runs_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ON_WINDOWS", False)
    with ntlm_accounts(*ACCOUNTS), pytest.raises(LocalProtocolError, match="on Windows only"):
        Ntlm("NTLM", Credentials("", ""))


# The configuration


def pop3_with(*lines: str, password: bool = False) -> str:
    text = GOOD.replace('user = "office"\n', "".join(f"{line}\n" for line in lines))
    return text if password else text.replace('password = "s3cret-word"\n', "")


@pytest.mark.parametrize("auth", ['["ntlm", "msn"]', '["ntlm"]', '["msn"]'])
def test_an_empty_user_on_windows(windows: Secur32, auth: str, tmp_path: Path) -> None:
    config: Config = load.load(write(tmp_path, pop3_with('user = ""', f"auth = {auth}")))
    pop3: Pop3 = config.connectors[0].pop3
    assert pop3.user == ""
    assert pop3.password is NO_SECRET
    assert resolve(pop3.password, what="connector.office.pop3.password", user="", folder=tmp_path) == ""
    assert list(secrets_of(config.connectors[0])) == []


REFUSED = [
    (True, ('user = ""',), False, "user"),
    (True, ('user = ""', 'auth = ["ntlm", "user"]'), False, "user"),
    (True, ('user = ""', 'auth = ["scram-sha-256"]'), True, "user"),
    (True, ('user = ""', 'auth = ["ntlm"]'), True, "password"),
    (True, ('auth = ["ntlm"]',), False, "user"),
    (True, ('user = "office"', 'auth = ["ntlm"]'), False, "password"),
    (False, ('user = ""', 'auth = ["ntlm"]'), False, "user"),
    (False, ('user = ""',), True, "user"),
]


@pytest.mark.parametrize(("on_windows", "lines", "password", "key"), REFUSED)
def test_what_is_refused(
    on_windows: bool,
    lines: tuple[str, ...],
    password: bool,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(load, "ON_WINDOWS", on_windows)
    with pytest.raises(ConfigError) as caught:
        load.load(write(tmp_path, pop3_with(*lines, password=password)))
    faults = str(caught.value).splitlines()
    assert f"connector.office.pop3.{key}: " in faults[0]
    if 'user = ""' in lines and key == "user":
        assert len(faults) == 1
        assert 'on Windows, with auth of "ntlm" and "msn" only, an empty one' in faults[0]


@pytest.mark.parametrize("name", ["PC-17", "", "x" * 63, "büro"])
def test_a_workstation(name: str, tmp_path: Path) -> None:
    config = load.load(write(tmp_path, pop3_with('user = "office"', f'workstation = "{name}"', password=True)))
    assert config.connectors[0].pop3.workstation == name


@pytest.mark.parametrize("name", ["a b", "x" * 64, "a/b", "a:b"])
def test_what_is_no_workstation(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the name of a computer, up to 63 characters"):
        load.load(write(tmp_path, pop3_with('user = "office"', f'workstation = "{name}"', password=True)))

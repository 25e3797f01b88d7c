"""docs/configuration.md and the model tell the same."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from poprep_cli.config.load import accepts, examine
from poprep_cli.config.model import Config, Connector, Smtp, keys, tables

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"
TEXT = DOCS.read_text(encoding="utf-8")

STRUCTS: dict[str, type[msgspec.Struct]] = {
    "[connector.NAME]": Connector,
    "[smtp]": Smtp,
    **{f"[connector.NAME.{name}]": kind for name, kind in tables(Connector).items() if kind is not Smtp},
    **{f"[{name}]": kind for name, kind in tables(Config).items()},
}


def rows(header: str) -> list[list[str]]:
    """Return the cells of each row in the table below the heading that starts with this TOML header."""
    section = re.search(rf"^## `{re.escape(header)}`.*?(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert section, header
    lines = [line for line in section[0].splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("header", STRUCTS)
def test_every_key_is_in_the_docs_and_nothing_else(header: str) -> None:
    assert [row[0].strip("`") for row in rows(header)] == list(keys(STRUCTS[header]))


def test_every_table_is_in_the_docs_and_nothing_else() -> None:
    assert set(re.findall(r"^## `(\[.*?\])`", TEXT, re.MULTILINE)) == set(STRUCTS)


@pytest.mark.parametrize("header", STRUCTS)
def test_defaults_and_examples_in_the_docs(header: str) -> None:
    import tomllib

    for name, _, default, _, example in rows(header):
        key = keys(STRUCTS[header])[name.strip("`")]
        assert (default == "needed") is key.required
        if default.startswith("`"):
            value = tomllib.loads(f"x = {default.strip('`')}")["x"]
            assert (tuple(value) if isinstance(value, list) else value) == key.default
        ((written, given),) = tomllib.loads(example.strip("`")).items()
        assert f"`{written}`" == name
        assert accepts(key.type, given) or "..." in example


def test_the_example_loads() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    config, faults = examine(example, Path("poprep.toml"))
    assert faults == []
    assert config is not None
    office, archive = config.connectors
    assert (office.pop3.address.port, office.server_copy.remove_after_days) == (995, 14)
    assert str(archive.smtp.addresses[0]) == "unix:/run/dovecot/lmtp"

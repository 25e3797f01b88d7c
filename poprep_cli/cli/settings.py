"""What the global options say: where configuration and state are, and how much to tell."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}  # of click, for every command


class Settings(NamedTuple):
    """The global options; every command gets them as click's context object."""

    config: Path | None
    state_dir: Path | None
    verbosity: int
    quiet: bool

    @property
    def config_path(self) -> Path:
        """The configuration file in use, whether or not it exists."""
        if self.config is not None:
            return self.config
        from platformdirs import user_config_path

        return user_config_path("poprep", appauthor=False) / "poprep.toml"

    @property
    def state_path(self) -> Path:
        """The state folder in use, whether or not it exists."""
        if self.state_dir is not None:
            return self.state_dir
        from platformdirs import user_state_path

        return user_state_path("poprep", appauthor=False)

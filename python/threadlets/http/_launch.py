"""A launch: what a command was asked to serve. It travels from the supervisor to its workers."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from threadlets._user_error import STATUS_USAGE, UserError
from threadlets.exceptions import ConfigError
from threadlets.http._config import Config
from threadlets.http._target import Target, check_files_options, load_target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """What to serve, and how."""

    target: str
    app_dir: str = "."
    factory: bool = False
    #: asyncio's debug mode.
    debug: bool = False
    config: Config = dataclasses.field(default_factory=Config)

    def load(self) -> Target:
        """Find the application or folder; errors are `UserError`s."""
        target = load_target(
            self.target,
            interface=self.config.interface,
            app_dir=self.app_dir,
            factory=self.factory,
        )
        try:
            check_files_options(self.config, target.interface)
        except ConfigError as error:
            name = error.field.replace("_", "-")
            option = f"--no-{name}" if error.value is False else f"--{name}"
            raise UserError(
                fact=f"{option} cannot be used for '{target.title}'",
                cause=error.cause,
                remedy=error.remedy,
                status=STATUS_USAGE,
            ) from None
        return target

    def with_config(self, **changes: Any) -> Launch:
        """Return the same with some fields of the configuration changed."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **changes))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Launch:
        fields = json.loads(text)
        return cls(**fields | {"config": Config(**fields["config"])})

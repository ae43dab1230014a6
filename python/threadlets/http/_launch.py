"""A launch: what a command was asked to serve. It travels from the supervisor to its workers."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from threadlets.http._config import Config
from threadlets.http._target import Target, load_target


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
        return load_target(
            self.target,
            interface=self.config.interface,
            app_dir=self.app_dir,
            factory=self.factory,
        )

    def with_config(self, **changes: Any) -> Launch:
        """Return the same with some fields of the configuration changed."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, **changes))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Launch:
        fields = json.loads(text)
        return cls(**fields | {"config": Config(**fields["config"])})

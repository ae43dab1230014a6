"""The type of the `run` fixture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Run = Callable[..., Any]

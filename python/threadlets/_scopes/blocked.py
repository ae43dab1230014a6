"""Lists the functions of a loop that are blocked: their names, their threads and their stacks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Container
from typing import Any

from threadlets._core import Dispatcher
from threadlets._introspection import BlockedFunction, format_stack, function_name, thread_name


def blocked_functions(
    loop: Dispatcher, tasks: Container[asyncio.Task[Any]] | None = None
) -> list[BlockedFunction]:
    """List the blocked functions of a loop; with `tasks`, only those that these tasks await."""
    now = time.monotonic()
    return [
        BlockedFunction(
            function_name(function), thread_name(thread), now - since, format_stack(thread)
        )
        for function, thread, since, _, task in loop._blocked()
        if tasks is None or task in tasks
    ]

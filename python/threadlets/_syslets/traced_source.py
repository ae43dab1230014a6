"""Search of the source for what tracing cannot see: a `return` or `break` out of a traced block."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from threadlets._syslets.flow import loop, otherwise, when
from threadlets._syslets.locations import Location

_BLOCKS = (loop, when, otherwise)


def check_source(function: Callable[..., Any]) -> None:
    """Refuse jumps out of `with loop()`, `when` and `otherwise`; without source, check nothing.

    Raises:
        SysletError: there is such a jump. The function would take it while it is traced, once,
            whatever the condition.
    """
    try:
        lines, first_line = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError):
        return
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef):
        return
    names = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    for jump in _find_jumps_out(definition.body, names, blocks=0, python_loops=0):
        statement = {ast.Return: "return", ast.Break: "break"}.get(type(jump), "continue")
        remedy = "stop_if" if isinstance(jump, ast.Return) else "break_if"
        location = Location(function.__code__.co_filename, first_line + jump.lineno - 1)
        raise location.error(
            f"`{statement}` inside a traced block takes effect while the program is traced, not in "
            f"a run: use {remedy}"
        )


def _find_jumps_out(
    body: list[Any], names: dict[str, Any], *, blocks: int, python_loops: int
) -> Iterator[ast.stmt]:
    """Yield the jumps in `body` that leave a traced block.

    `blocks` and `python_loops` count the traced blocks and Python loops around `body`. Only Python
    loops inside the innermost block count: they are unrolled, and may be left.
    """
    for node in body:
        is_return = isinstance(node, ast.Return)
        is_jump = isinstance(node, ast.Break | ast.Continue) and not python_loops
        if blocks and (is_return or is_jump):
            yield node
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        elif isinstance(node, ast.With) and _opens_block(node, names):
            yield from _find_jumps_out(node.body, names, blocks=blocks + 1, python_loops=0)
        else:
            deeper = python_loops + isinstance(node, ast.For | ast.While)
            children = list(ast.iter_child_nodes(node))
            yield from _find_jumps_out(children, names, blocks=blocks, python_loops=deeper)


def _opens_block(node: ast.With, names: dict[str, Any]) -> bool:
    return any(
        isinstance(item.context_expr, ast.Call)
        and _resolve(item.context_expr.func, names) in _BLOCKS
        for item in node.items
    )


def _resolve(function: ast.expr, names: dict[str, Any]) -> object:
    if isinstance(function, ast.Name):
        return names.get(function.id)
    if isinstance(function, ast.Attribute):
        return getattr(_resolve(function.value, names), function.attr, None)
    return None

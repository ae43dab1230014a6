"""Which function a call counts for in the history."""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import threadlets
from threadlets import Pool

from .harness import N_ATTEMPTS, Switch, become_inline, known


def one() -> None:
    pass


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Thing:
    def method(self) -> None:
        pass

    def __call__(self) -> None:
        pass


@logged
def decorated() -> None:
    pass


_SAME: dict[str, tuple[list[Callable[[], Any]], str]] = {
    "decorated": ([decorated, logged(logged(decorated))], ".decorated"),
    "partial": ([one, functools.partial(one), functools.partial(functools.partial(one))], ".one"),
    "bound methods": ([Thing().method, Thing().method], ".Thing.method"),
    "partial method": ([functools.partial(Thing().method), Thing().method], ".Thing.method"),
    "methods in C": ([[1].copy, [2, 3].copy], "list.copy"),
    "instances": ([Thing(), Thing()], ".Thing"),
    "a class": ([Thing], ".Thing"),
    "in a context": (
        [one, functools.partial(contextvars.copy_context().run, one), functools.partial(one)],
        ".one",
    ),
    "decorated in a context": (
        [decorated, functools.partial(contextvars.copy_context().run, decorated)],
        ".decorated",
    ),
}


@pytest.mark.parametrize(("calls", "name"), _SAME.values(), ids=_SAME)
def test_function_is_known_whatever_is_put_around_it(
    run: Any, calls: list[Callable[[], Any]], name: str
) -> None:
    """A function is known by the code that it runs, whatever wraps it."""

    async def main() -> None:
        for call in calls:
            await threadlets.call(call)
        functions = threadlets.stats()["functions"]
        assert [len(calls)] == [row["beside"] + row["inline"] for row in functions]
        assert functions[0]["function"].endswith(name)

    run(main())


def test_functions_are_told_apart_under_one_decorator(run: Any) -> None:
    """The same holds for two methods of one object, and for functions that one context runs."""

    def other() -> None:
        pass

    def third() -> None:
        pass

    async def main() -> None:
        context = contextvars.copy_context()
        await threadlets.call(logged(one))
        await threadlets.call(logged(other))
        await threadlets.call(context.run, third)
        await threadlets.call([].copy)
        await threadlets.call([].clear)
        names = sorted(
            row["function"].rpartition(".")[2] for row in threadlets.stats()["functions"]
        )
        assert ["clear", "copy", "one", "other", "third"] == names

    run(main())


def test_each_pool_has_a_history_of_its_own(run: Any, without_forced_switches: None) -> None:
    """A function may block in one pool and not in another."""

    async def main() -> bool:
        pool, switch = Pool(), Switch()
        await become_inline(lambda: threadlets.call(switch))
        assert await pool.call(switch) != threading.get_ident()
        n_before = threadlets.stats()["mistakes"]
        assert await threadlets.call(switch) == threading.get_ident()
        if threadlets.stats()["mistakes"] > n_before:
            # The system has interrupted the call for longer than a quick one takes.
            return False
        assert "beside" == known("Switch", pool.stats())["start"]
        assert 1 == len(pool.stats()["functions"])
        starts = [row["start"] for row in threadlets.stats()["functions"]]
        assert ["beside", "inline"] == sorted(starts)
        return True

    assert any(run(main()) for _ in range(N_ATTEMPTS))


def test_as_many_functions_as_there_is_room_for_are_remembered(run: Any) -> None:
    """A program that makes functions all the time forgets old ones, but counts their calls."""

    async def main() -> None:
        functions = [eval(f"lambda: {number}") for number in range(5000)]
        for number, function in enumerate(functions):
            assert await threadlets.call(function) == number
        stats = threadlets.stats()
        assert 0 < len(stats["functions"]) <= 4096
        assert 5000 == stats["calls_beside"] + stats["calls_inline"]

    run(main())

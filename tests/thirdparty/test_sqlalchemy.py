"""SQLAlchemy's asyncio: a statement runs in a greenlet, suspended while the database answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from blocking import Way, blocked, call_inline, others_block, pause, until_home

pytest.importorskip("greenlet", reason="greenlet is not installed")
sqlalchemy = pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")
pytest.importorskip("aiosqlite", reason="aiosqlite is not installed")

from sqlalchemy import ForeignKey, event, func, literal, select, text  # noqa: E402  # After the skips.
from sqlalchemy.exc import IntegrityError  # noqa: E402
from sqlalchemy.ext.asyncio import (  # noqa: E402
    AsyncAttrs,
    AsyncEngine,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import (  # noqa: E402
    DeclarativeBase,
    Mapped,
    mapped_column,
    relationship,
    selectinload,
)
from sqlalchemy.util import await_only, greenlet_spawn  # noqa: E402

N_TASKS = 10
MakeUrl = Callable[[], str]


class Base(AsyncAttrs, DeclarativeBase):
    """The tables of these tests."""


class Author(Base):
    """An author of books."""

    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    books: Mapped[list[Book]] = relationship(back_populates="author", order_by="Book.id")


class Book(Base):
    """A book of one author."""

    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


@pytest.fixture(params=["aiosqlite", "asyncpg"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the address of a database: a file, or one on a server."""
    if request.param == "aiosqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/rows.db"
    pytest.importorskip("asyncpg", reason="asyncpg is not installed")
    return postgres_url(request.getfixturevalue("postgres"))


def postgres_url(parameters: dict[str, str]) -> str:
    return "postgresql+asyncpg://{user}@/{database}?host={host}".format(**parameters)


@asynccontextmanager
async def database(url: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    """Open a database with empty tables; at the end no connection may be checked out."""
    engine = create_async_engine(url, **options)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield engine
        assert 0 == engine.pool.checkedout()
    finally:
        await engine.dispose()


async def count(engine: AsyncEngine, table: type[Base]) -> int:
    async with engine.connect() as connection:
        return (await connection.execute(select(func.count()).select_from(table))).scalar_one()


# -- while functions of other tasks block ----------------------------------------------------------


def test_statements_are_answered(way: Way, run_way: Any, url: str) -> None:
    """Ten tasks query on the connections of a pool that has fewer."""

    async def ask(engine: AsyncEngine, number: int) -> int:
        total = 0
        for step in range(10):
            async with engine.connect() as connection:
                total += (await connection.execute(select(literal(number) + step))).scalar_one()
        return total

    async def main() -> list[int]:
        async with database(url, pool_size=3, max_overflow=2) as engine, others_block(way.call):
            return await asyncio.gather(*(ask(engine, number) for number in range(N_TASKS)))

    assert run_way(main()) == [10 * number + 45 for number in range(N_TASKS)]


def test_sessions_write_and_read_objects(way: Way, run_way: Any, url: str) -> None:
    """Sessions flush, commit, refresh, load objects eagerly and lazily, stream, and roll back."""

    async def write(make_session: Any, number: int) -> None:
        async with make_session() as session, session.begin():
            author = Author(name=f"author {number}")
            author.books = [Book(title=f"book {n}") for n in range(3)]
            session.add(author)
            await session.flush()
            assert author.id is not None
            with pytest.raises(IntegrityError):
                async with session.begin_nested():
                    session.add(Author(name=f"author {number}"))
            await asyncio.sleep(0)
        async with make_session() as session:
            session.add(Author(name=f"forgotten {number}"))
            await session.flush()
            await session.rollback()

    async def read(make_session: Any, number: int) -> list[str]:
        async with make_session() as session:
            whose = select(Author).where(Author.name == f"author {number}")
            lazy = (await session.scalars(whose)).one()
            titles = [book.title for book in await lazy.awaitable_attrs.books]
            await session.refresh(lazy)
        async with make_session() as session:
            eager = (await session.scalars(whose.options(selectinload(Author.books)))).one()
            assert [book.title for book in eager.books] == titles
        async with make_session() as session:
            by_title = select(Book.title).where(Book.author_id == lazy.id).order_by(Book.id)
            streamed = [title async for title in await session.stream_scalars(by_title)]
            assert streamed == titles
            await session.run_sync(lambda it: it.get(Author, lazy.id).books)
        return titles

    async def main() -> tuple[list[list[str]], int]:
        async with database(url, pool_size=5) as engine, others_block(way.call):
            make_session = async_sessionmaker(engine)
            for number in range(N_TASKS if "sqlite" in url else 0):
                await write(make_session, number)  # One writer at a time.
            if "postgresql" in url:
                await asyncio.gather(*(write(make_session, number) for number in range(N_TASKS)))
            titles = await asyncio.gather(*(read(make_session, n) for n in range(N_TASKS)))
            return titles, await count(engine, Author)

    assert ([["book 0", "book 1", "book 2"]] * N_TASKS, N_TASKS) == run_way(main())


def test_listeners_await_inside_of_statements(way: Way, run_way: Any, tmp_path: Path) -> None:
    """Plain functions that SQLAlchemy calls in its greenlet may await, also calls of functions."""
    n_heard = 0

    def listen(_connection: Any, cursor: Any, *_args: Any) -> None:
        nonlocal n_heard
        await_only(asyncio.sleep(0.001))
        await_only(way.call(pause, 0.001))
        n_heard += 1

    async def main() -> None:
        async with database(f"sqlite+aiosqlite:///{tmp_path}/rows.db") as engine:
            event.listen(engine.sync_engine, "before_cursor_execute", listen)
            async with others_block(way.call):
                await asyncio.gather(*(count(engine, Author) for _ in range(N_TASKS)))

    run_way(main())
    assert N_TASKS == n_heard


def test_cancelled_statements_give_their_connections_back(
    way: Way, run_way: Any, postgres: Any
) -> None:
    """Statements may wait for the pool, the server or a lock; the next ones are answered."""

    async def sleep(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT pg_sleep(60)"))

    async def cancel_later(engine: AsyncEngine, number: int) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02 + number / 500):
                await sleep(engine)

    async def main() -> int:
        few = {"pool_size": 2, "max_overflow": 0}
        async with database(postgres_url(postgres), **few) as engine, others_block(way.call):
            await asyncio.gather(*(cancel_later(engine, number) for number in range(N_TASKS)))
            return await count(engine, Author)

    assert 0 == run_way(main())


def test_asyncpg_is_answered(way: Way, run_way: Any, postgres: Any) -> None:
    """Without SQLAlchemy, statements, transactions and notifications of several connections work."""
    asyncpg = pytest.importorskip("asyncpg", reason="asyncpg is not installed")

    async def ask(pool: Any, number: int) -> int:
        total = 0
        for step in range(10):
            async with pool.acquire() as connection, connection.transaction():
                total += await connection.fetchval("SELECT $1::int + $2::int", number, step)
        return total

    async def hear(pool: Any) -> str:
        heard = asyncio.get_running_loop().create_future()
        async with pool.acquire() as connection:

            def listener(*args: Any) -> None:
                heard.set_result(args[-1])

            await connection.add_listener("news", listener)
            await pool.execute("NOTIFY news, 'heard'")
            text = await heard
            await connection.remove_listener("news", listener)
        return text

    async def main() -> tuple[list[int], str]:
        async with asyncpg.create_pool(**postgres) as pool, others_block(way.call):
            totals = await asyncio.gather(*(ask(pool, number) for number in range(N_TASKS)))
            return totals, await hear(pool)

    assert run_way(main()) == ([10 * number + 45 for number in range(N_TASKS)], "heard")


# -- while home is blocked -------------------------------------------------------------------------


def test_statements_that_began_elsewhere_end_there(run_threadlets: Any, url: str) -> None:
    """A transaction of each kind of connection is open while home gets the role back."""

    async def transact(
        make_session: Any, number: int, begun: asyncio.Semaphore, may_end: asyncio.Event
    ) -> None:
        async with make_session() as session, session.begin():
            session.add(Author(name=f"author {number}"))
            await session.flush()
            begun.release()
            await greenlet_spawn(await_only, may_end.wait())
            await session.execute(select(Author))

    async def main() -> int:
        async with database(url) as engine:
            make_session = async_sessionmaker(engine)
            for number in range(0, 15, 5):
                # SQLite has one writer at a time.
                numbers = range(number, number + (1 if "sqlite" in url else 5))
                begun, may_end = asyncio.Semaphore(0), asyncio.Event()
                async with asyncio.TaskGroup() as group:
                    async with blocked(call_inline):
                        for it in numbers:
                            group.create_task(transact(make_session, it, begun, may_end))
                        for _ in numbers:
                            await begun.acquire()
                    await until_home()
                    may_end.set()
            return await count(engine, Author)

    assert run_threadlets(main()) == (3 if "sqlite" in url else 15)


def test_statements_of_home_are_answered_after_it_was_blocked(
    run_threadlets: Any, url: str
) -> None:
    """Statements are under way when home blocks, and another thread disposes of an engine."""

    async def main() -> list[int]:
        async with database(url) as engine:
            tasks = [asyncio.create_task(count(engine, Author)) for _ in range(N_TASKS)]
            await asyncio.sleep(0)
            async with blocked(call_inline):
                tasks += [asyncio.create_task(count(engine, Author)) for _ in range(N_TASKS)]
                await asyncio.sleep(0.02)
                other = create_async_engine(url)
                assert 0 == await count(other, Author)
                await other.dispose()
            return await asyncio.gather(*tasks)

    assert [0] * 2 * N_TASKS == run_threadlets(main())

"""The load test's service: plain endpoints that block, and async ones that use SQLAlchemy.

It is written like any FastAPI service: only the line that replaces anyio's worker threads knows of
threads, greenlets or the loop.
"""

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import threadlets
from fastapi import Depends, FastAPI
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from threadlets.frameworks import use_threadlets_in_anyio

use_threadlets_in_anyio()
N_WORDS = 100
make_session = async_sessionmaker[AsyncSession](expire_on_commit=False)


class Base(DeclarativeBase):
    """The base class of the service's tables."""


class Word(Base):
    """A row of the table."""

    __tablename__ = "word"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        engine = create_async_engine(f"sqlite+aiosqlite:///{folder}/words.db", pool_size=8)
        make_session.configure(bind=engine)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with make_session.begin() as session:
            session.add_all(Word(id=n, text=f"word {n}") for n in range(N_WORDS))
        yield
        await engine.dispose()


async def session() -> AsyncIterator[AsyncSession]:
    async with make_session() as session:
        yield session


app = FastAPI(lifespan=lifespan)


@app.get("/report/{number}")
def report(number: int) -> dict[str, int]:
    time.sleep((1 + number % 3) / 1000)
    return {"report": number}


@app.get("/rows/{number}")
async def rows(number: int, session: Annotated[AsyncSession, Depends(session)]) -> list[Any]:
    word = await session.get_one(Word, number % N_WORDS)
    n_words = await session.scalar(select(func.count()).select_from(Word))
    return [number, word.text, n_words]


@app.get("/stats")
async def stats() -> dict[str, Any]:
    return threadlets.stats()

"""Pipe transports."""

from __future__ import annotations

import asyncio
import os

from .harness import Recorder, Run, ticks


def test_pipe_carries_data_and_the_end(run: Run) -> None:
    """Data written at one end is read at the other, followed by the end of the stream."""
    data = os.urandom(1 << 20)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        _, reader = await loop.connect_read_pipe(Recorder, os.fdopen(reading, "rb", 0))
        transport, writer = await loop.connect_write_pipe(Recorder, os.fdopen(writing, "wb", 0))
        transport.write(data)
        transport.close()
        await reader.lost.wait()
        await writer.lost.wait()
        assert data == reader.received
        assert ["end", "lost"] == reader.calls[-2:]

    run(main())


def test_writer_learns_that_its_reader_has_gone(run: Run) -> None:
    """A write pipe loses its connection when the reading end is closed."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        _, writer = await loop.connect_write_pipe(Recorder, os.fdopen(writing, "wb", 0))
        os.close(reading)
        await writer.lost.wait()

    run(main())


def test_paused_pipe_rests(run: Run) -> None:
    """A paused read pipe delivers nothing until it resumes."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reading, writing = os.pipe()
        transport, reader = await loop.connect_read_pipe(Recorder, os.fdopen(reading, "rb", 0))
        transport.pause_reading()
        os.write(writing, b"data")
        await ticks(3)
        assert b"" == reader.received
        transport.resume_reading()
        assert b"data" == await reader.receive(4)
        os.close(writing)
        await reader.lost.wait()

    run(main())

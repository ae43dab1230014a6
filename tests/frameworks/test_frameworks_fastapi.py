"""FastAPI on a threadlets loop: endpoints, dependencies and uploads.

FastAPI reads annotations as objects, so they are not deferred here.
"""

import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
import threadlets

fastapi = pytest.importorskip("fastapi", reason="fastapi is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")


pytestmark = pytest.mark.starts("inline", "beside")


def client(app: Any) -> Any:
    """Return a client that calls the application directly."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")


def test_endpoints_and_dependencies_are_threadlets(run: Any, is_in_place: Any) -> None:
    """A `def` endpoint and a dependency that yields run as threadlets, also when they fail."""
    journal: list[tuple[str, str]] = []

    def note(what: str) -> None:
        journal.append((what, threading.current_thread().name))

    def session() -> Iterator[str]:
        note("open")
        try:
            yield "session"
        finally:
            note("close")

    app = fastapi.FastAPI()

    @app.get("/{number}")
    def read(number: int, used: Annotated[str, fastapi.Depends(session)]) -> dict[str, Any]:
        note("read")
        if number < 0:
            raise fastapi.HTTPException(404, "no such number")
        return {"number": number, "used": used}

    async def main() -> tuple[Any, int]:
        async with client(app) as http:
            return (await http.get("/7")).json(), (await http.get("/-1")).status_code

    assert ({"number": 7, "used": "session"}, 404) == run(main())
    assert ["open", "read", "close"] * 2 == [what for what, _ in journal]
    assert all(is_in_place(thread) for _, thread in journal)


@pytest.mark.starts("auto")
def test_each_endpoint_is_remembered_by_itself(run: Any) -> None:
    """Though FastAPI calls all of them by one function: one that blocks is no reason to take others for slow."""
    app = fastapi.FastAPI()

    @app.get("/quick")
    def quick() -> None:
        pass

    @app.get("/slow")
    def slow() -> None:
        time.sleep(0.01)

    def starts() -> tuple[str, str]:
        functions = threadlets.stats()["functions"]
        by_name = {it["function"].rpartition(".")[2]: it["start"] for it in functions}
        return by_name["quick"], by_name["slow"]

    async def main() -> None:
        async with client(app) as http:
            # A busy machine makes a quick one slow now and then; that is forgiven after some more calls.
            for _ in range(500):
                await http.get("/quick")
                await http.get("/slow")
                if starts() == ("inline", "beside"):
                    return
        raise AssertionError(starts())

    run(main())


def test_uploads_are_taken(run: Any) -> None:
    """An upload that anyio writes to disk and reads back arrives whole."""
    pytest.importorskip("python_multipart", reason="python-multipart is not installed")
    upload = bytes(range(256)) * 10_000
    app = fastapi.FastAPI()

    @app.post("/")
    async def receive(file: fastapi.UploadFile) -> bool:
        return await file.read() == upload

    async def main() -> Any:
        async with client(app) as http:
            return (await http.post("/", files={"file": upload})).json()

    assert run(main()) is True

"""The same quick endpoint twice: as a plain function, and as a coroutine."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import Response

plain = FastAPI()
coroutine = FastAPI()
_BODY = b"x" * 1024


@plain.get("/")
def answer_plainly() -> Response:
    """Answer at once, in whatever thread the framework takes for it."""
    return Response(_BODY, media_type="text/plain")


@coroutine.get("/")
async def answer() -> Response:
    """Answer at once."""
    return Response(_BODY, media_type="text/plain")

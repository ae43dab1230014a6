"""A Django project of one file, on its ORM, for ASGI (`app`) and for WSGI (`wsgi`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import django
import store
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": store.DATABASE,
            "OPTIONS": {"timeout": store.PATIENCE_S},
        }
    },
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[],
    ROOT_URLCONF=__name__,
    SECRET_KEY="only for tests",
)
django.setup()

from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connection, models  # noqa: E402
from django.http import (  # noqa: E402
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path  # noqa: E402


class Note(models.Model):
    text = models.TextField()

    class Meta:
        app_label = "notes"
        db_table = "notes"


if "notes" not in connection.introspection.table_names():
    with connection.schema_editor() as editor:
        editor.create_model(Note)
connection.close()


def add_note(request: HttpRequest) -> HttpResponse:
    note = Note.objects.create(text=json.loads(request.body)["text"])
    return JsonResponse({"id": note.pk, "text": note.text}, status=201)


def find_note(request: HttpRequest, number: int) -> HttpResponse:
    note = Note.objects.filter(pk=number).first()
    if note is None:
        return JsonResponse({"detail": "there is no such note"}, status=404)
    return JsonResponse({"id": note.pk, "text": note.text})


def upload(request: HttpRequest) -> HttpResponse:
    file: Any = request.FILES["file"]
    return JsonResponse(store.describe(request.POST["title"], file.name, file.read()))


def stream(request: HttpRequest) -> HttpResponseBase:
    n = int(request.GET["n"])
    parts: Any = (store.part(number) for number in range(n))
    if is_asgi(request):

        async def afterwards(parts: Any = parts) -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        parts = afterwards()
    return StreamingHttpResponse(parts, content_type="text/plain")


def events(request: HttpRequest) -> HttpResponseBase:
    async def awaited() -> AsyncIterator[str]:
        yield "data: begin\n\n"
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(None, store.news.get, True, store.PATIENCE_S)
        yield f"data: {text}\n\n"

    def blocking() -> Iterator[str]:
        yield "data: begin\n\n"
        yield f"data: {store.news.get(timeout=store.PATIENCE_S)}\n\n"

    lines = awaited() if is_asgi(request) else blocking()
    return StreamingHttpResponse(lines, content_type="text/event-stream")


def publish(request: HttpRequest) -> HttpResponse:
    store.news.put(json.loads(request.body)["text"])
    return HttpResponse("")


def meet(request: HttpRequest) -> HttpResponse:
    store.meeting.wait(store.PATIENCE_S)
    return HttpResponse("met")


def is_asgi(request: HttpRequest) -> bool:
    return hasattr(request, "scope")


urlpatterns = [
    path("notes", add_note),
    path("notes/<int:number>", find_note),
    path("upload", upload),
    path("stream", stream),
    path("events", events),
    path("publish", publish),
    path("meet", meet),
]
app = get_asgi_application()
wsgi = get_wsgi_application()

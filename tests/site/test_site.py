"""What the example site answers, asked in-process."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from site_harness import Conversation, Visit, get, new_scope

from examples.site.app import Site
from examples.site.chat import Chat
from examples.site.counters import Counters
from examples.site.report import make_report


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", b"text/html; charset=utf-8"),
        ("/index.html", b"text/html; charset=utf-8"),
        ("/about.html", b"text/html; charset=utf-8"),
        ("/style.css", b"text/css; charset=utf-8"),
    ],
)
def test_page_comes_with_its_type_and_length(visit: Visit, path: str, kind: bytes) -> None:
    """A page says what it is and how long it is."""

    async def story(site: Site) -> None:
        page = await get(site, path)
        assert (200, kind) == (page.status, page.headers[b"content-type"])
        assert len(page.body) == int(page.headers[b"content-length"]) > 0

    visit(story)


def test_known_page_is_not_sent_again(visit: Visit) -> None:
    """If-None-Match with the page's ETag gets 304 without a body; another ETag gets the page."""

    async def story(site: Site) -> None:
        etag = (await get(site, "/style.css")).headers[b"etag"].decode()
        for known in (etag, f'"other", W/{etag}', "*"):
            page = await get(site, "/style.css", if_none_match=known)
            assert (304, b"") == (page.status, page.body)
        assert 200 == (await get(site, "/style.css", if_none_match='"other"')).status

    visit(story)


def test_head_has_the_headers_of_get(visit: Visit) -> None:
    """HEAD differs from GET by the body alone."""

    async def story(site: Site) -> None:
        head, page = await get(site, "/", method="HEAD"), await get(site, "/")
        assert (page.status, page.headers, b"") == (head.status, head.headers, head.body)

    visit(story)


@pytest.mark.parametrize(
    "path",
    ["/missing", "/../app.py", "/../../site/app.py", "//etc/passwd", "/..", "/static/style.css"],
)
def test_no_path_leaves_the_folder(visit: Visit, path: str) -> None:
    """What is no page of the folder is 404, however it is spelt (paths arrive decoded)."""

    async def story(site: Site) -> None:
        assert 404 == (await get(site, path)).status

    visit(story)


def test_other_methods_are_refused(visit: Visit) -> None:
    """The site is read-only and says which methods it allows."""

    async def story(site: Site) -> None:
        answer = await get(site, "/", method="DELETE")
        assert (405, b"GET, HEAD") == (answer.status, answer.headers[b"allow"])

    visit(story)


def test_modules_are_listed_page_by_page(visit: Visit) -> None:
    """Pages follow each other in the order of names; the totals cover the standard library."""

    async def story(site: Site) -> None:
        first = json.loads((await get(site, "/api/modules", "limit=5")).body)
        second = json.loads((await get(site, "/api/modules", "limit=5&offset=5")).body)
        names = [module["name"] for module in first["page"] + second["page"]]
        assert (10, sorted(names)) == (len(set(names)), names)
        assert first["modules"] > 100
        assert first["members"] > 2000

    visit(story)


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "offset=-1", "limit=ten", "offset=1e30"])
def test_wrong_page_is_a_bad_request(visit: Visit, query: str) -> None:
    """Numbers that make no page are answered with 400 and a reason."""

    async def story(site: Site) -> None:
        answer = await get(site, "/api/modules", query)
        assert 400 == answer.status
        assert json.loads(answer.body)["error"]

    visit(story)


def test_module_is_described_with_its_members(visit: Visit) -> None:
    """A module of the standard library has its docstring's first line and its functions."""

    async def story(site: Site) -> None:
        module = json.loads((await get(site, "/api/modules/shutil")).body)
        copy = next(member for member in module["members"] if member["name"] == "copyfileobj")
        assert ("function", "(fsrc, fdst, length=0)") == (copy["kind"], copy["signature"])
        assert module["summary"]
        assert 404 == (await get(site, "/api/modules/nothing")).status

    visit(story)


def test_search_finds_words_by_their_beginnings(visit: Visit) -> None:
    """All words must match, in the name, the module or the summary."""

    async def story(site: Site) -> None:
        found = json.loads((await get(site, "/api/search", "q=copyfileob+shut")).body)["found"]
        assert [("shutil", "copyfileobj")] == [(hit["module"], hit["name"]) for hit in found]

    visit(story)


@pytest.mark.parametrize("text", ["", "%22", "%22+OR+1", "a+AND", "NEAR(", "*", "'--", "%00"])
def test_search_text_is_never_an_expression(visit: Visit, text: str) -> None:
    """Operators and quotes are words like any other: no text is an error."""

    async def story(site: Site) -> None:
        assert 200 == (await get(site, "/api/search", f"q={text}")).status

    visit(story)


def test_report_is_made_without_holding_up_the_loop(visit: Visit) -> None:
    """While the report blocks, other requests are answered."""

    async def story(site: Site) -> None:
        report = asyncio.create_task(get(site, "/report"))
        n_answers = 0
        while not report.done():
            await get(site, "/api/counters")
            n_answers += 1
        assert n_answers > 1
        made = json.loads((await report).body)
        assert made["n_bytes"] > made["n_bytes_compressed"] > 0

    visit(story)


def test_report_is_reproducible(tmp_path: Path) -> None:
    """The same file gives the same report, but for the time it took."""
    source = tmp_path / "source"
    source.write_bytes(b"threadlet" * 1000)
    first, second = make_report(source), make_report(source)
    assert first["sha256"] == second["sha256"]
    assert 9000 == first["n_bytes"]


def test_events_end_when_the_client_leaves(visit: Visit) -> None:
    """The stream sends the counters at once and ends with the client's disconnect."""

    async def story(site: Site) -> None:
        talk = Conversation(site, new_scope("http", "/events", method="GET"))
        start = await talk.hear("http.response.start")
        assert b"text/event-stream; charset=utf-8" == dict(start["headers"])[b"content-type"]
        event = (await talk.hear("http.response.body"))["body"].decode()
        assert event.startswith("id: 1\nevent: counters\ndata: {")
        assert event.endswith("\n\n")
        assert 1 == site.counters.n_listeners
        talk.tell(type="http.disconnect")
        await talk.end()
        assert 0 == site.counters.n_listeners

    visit(story)


def test_events_end_when_the_server_stops(visit: Visit) -> None:
    """The stream ends by itself when the server announces its stop."""

    async def story(site: Site) -> None:
        stopping = asyncio.Event()
        state = {"threadlets.stopping": stopping}
        talk = Conversation(site, new_scope("http", "/events", method="GET", state=state))
        await talk.hear("http.response.start")
        await talk.hear("http.response.body")
        stopping.set()
        await talk.end()
        assert not (await talk.hear("http.response.body")).get("more_body")

    visit(story)


async def _enter(site: Site) -> Conversation:
    talk = Conversation(site, new_scope("websocket", "/ws"))
    talk.tell(type="websocket.connect")
    await talk.hear("websocket.accept")
    return talk


def test_chat_reaches_all_and_echo_only_the_speaker(visit: Visit) -> None:
    """A message reaches all participants, after /echo only its sender, and none after it has left."""

    async def story(site: Site) -> None:
        anna, ben = await _enter(site), await _enter(site)
        anna.tell(type="websocket.receive", text="/echo to myself")
        assert "to myself" == (await anna.hear("websocket.send"))["text"]
        anna.tell(type="websocket.receive", text="hello")
        for listener in (anna, ben):
            assert "hello" == (await listener.hear("websocket.send"))["text"]
        anna.tell(type="websocket.disconnect", code=1000)
        await anna.end()
        ben.tell(type="websocket.receive", text="anybody?")
        assert "anybody?" == (await ben.hear("websocket.send"))["text"]
        ben.tell(type="websocket.disconnect", code=1000)
        await ben.end()
        assert 0 == site.counters.n_chatters

    visit(story)


def test_chat_outlives_a_listener_that_broke_off() -> None:
    """A listener whose connection is gone does not spoil the message for the others."""

    async def main() -> None:
        chat, heard = Chat(Counters()), []
        leave = asyncio.Event()

        async def broken_receive() -> dict[str, object]:
            if not accepted.is_set():
                accepted.set()
                return {"type": "websocket.connect"}
            await leave.wait()
            return {"type": "websocket.disconnect"}

        async def broken_send(message: object) -> None:
            if message != {"type": "websocket.accept"}:
                raise RuntimeError("closed")

        accepted = asyncio.Event()
        broken = asyncio.create_task(chat.converse(broken_receive, broken_send))
        await accepted.wait()
        messages = iter(
            [
                {"type": "websocket.connect"},
                {"type": "websocket.receive", "text": "hello"},
                {"type": "websocket.disconnect"},
            ]
        )

        async def receive() -> dict[str, str]:
            return next(messages)

        async def send(message: dict[str, str]) -> None:
            heard.append(message.get("text"))

        await chat.converse(receive, send)
        assert [None, "hello"] == heard
        leave.set()
        await broken

    asyncio.run(main())


def test_other_websocket_paths_are_refused(visit: Visit) -> None:
    """A handshake elsewhere is closed before it is accepted."""

    async def story(site: Site) -> None:
        talk = Conversation(site, new_scope("websocket", "/elsewhere"))
        talk.tell(type="websocket.connect")
        await talk.hear("websocket.close")
        await talk.end()

    visit(story)


def test_catalogue_that_cannot_be_opened_refuses_to_start(tmp_path: Path) -> None:
    """A file that is no database ends the start-up with a message for the server's log."""
    path = tmp_path / "catalogue.sqlite3"
    path.write_text("this is no database, whatever its name says" * 100)

    async def main() -> None:
        lifespan = Conversation(Site(path), new_scope("lifespan", ""))
        lifespan.tell(type="lifespan.startup")
        failed = await lifespan.hear("lifespan.startup.failed")
        assert "cannot open the catalogue" in failed["message"]
        await lifespan.end()

    asyncio.run(main())

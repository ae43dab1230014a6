"""A real browser visits the example site, served by `threadlets serve`."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served_apps import Served

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ROOT = Path(__file__).parents[2]
DEADLINE_MS = 30_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the example site with a catalogue of its own."""
    database = tmp_path_factory.mktemp("site") / "catalogue.sqlite3"
    started = Served(
        "examples.site.app:app", folder=ROOT, variables={"SITE_DATABASE": str(database)}
    )
    yield started
    started.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start Chromium: that of the system, or playwright's own."""
    system = shutil.which("chromium") or shutil.which("chromium-browser")
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(playwright.sync_playwright())
            # As root, which containers run tests as, it has no sandbox.
            started = running.chromium.launch(executable_path=system, args=["--no-sandbox"])
        # Its driver raises plain exceptions where it does not run.
        except Exception as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    """Open the first page, and fail if the browser finds a fault with it."""
    context = browser.new_context()
    context.set_default_timeout(DEADLINE_MS)
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    response = opened.goto(f"{served.url}/", wait_until="load")
    assert 200 == response.status
    yield opened
    context.close()
    assert [] == errors


def test_a_page_and_its_static_files_load(page: Any) -> None:
    """The style sheet is applied, and a link leads to the other page."""
    assert "The standard library, live" == page.title()
    n_rules = "document.styleSheets[0].cssRules.length"
    assert page.evaluate(n_rules) > 0
    page.get_by_role("link", name="About").click()
    page.wait_for_url("**/about.html")


def test_counters_arrive_as_events(page: Any) -> None:
    """Server-sent events fill the list, again and again."""
    requests = page.locator("#counters dt", has_text="requests")
    requests.wait_for()
    before = page.locator("#counters").inner_text()
    page.evaluate("fetch('/about.html')")
    page.wait_for_function(
        "before => document.getElementById('counters').innerText !== before", arg=before
    )


def test_a_search_finds_modules(page: Any) -> None:
    """What is typed is searched for in the database."""
    page.locator("#query").fill("json")
    page.locator("#found li").first.wait_for()
    assert "json" in page.locator("#found").inner_text()


def test_a_report_is_made(page: Any) -> None:
    """A blocking function answers a click."""
    page.locator("#make").click()
    page.wait_for_function("document.getElementById('report').innerText.length > 20")


def test_two_visitors_chat(page: Any, browser: Any, served: Served) -> None:
    """What one visitor says by websocket is read by another."""
    opened = page.evaluate(
        """() => new Promise(answer => {
            const tried = new WebSocket(`ws://${location.host}/ws`);
            tried.onopen = () => { tried.close(); answer(true); };
            tried.onerror = () => answer(false);
        })"""
    )
    if not opened:
        pytest.skip("this server does not serve websockets")
    context = browser.new_context()
    context.set_default_timeout(DEADLINE_MS)
    other = context.new_page()
    other.goto(f"{served.url}/", wait_until="load")
    words = "hello from the first visitor"
    # A page connects by itself, and says nothing before it is connected.
    while other.locator("#said li", has_text=words).count() == 0:
        page.locator("#chat input").fill(words)
        page.locator("#chat input").press("Enter")
        page.wait_for_timeout(100)
    context.close()

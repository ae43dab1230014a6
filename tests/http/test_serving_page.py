"""docs/serving.md says what there is: each option with its default, each metric, and no other."""

from __future__ import annotations

import collections
import dataclasses
import re
from pathlib import Path
from typing import Any

import click
import pytest
from threadlets.cli._app import build_command
from threadlets.http import Config
from threadlets.http._counted import families

_PAGE = Path(__file__).parent.parent.parent / "docs" / "serving.md"
_TEXT = _PAGE.read_text()


def _section(title: str, level: int = 2) -> str:
    """Return what stands below a heading, up to the next of its level or above."""
    pattern = rf"^{'#' * level} {re.escape(title)}$(.*?)(?=^#{{1,{level}}} |\Z)"
    (text,) = re.findall(pattern, _TEXT, re.MULTILINE | re.DOTALL)
    return text


def _options() -> list[click.Option]:
    serve = build_command().get_command(click.Context(click.Command("threadlets")), "serve")  # type: ignore[attr-defined]
    return [it for it in serve.params if getattr(it, "rich_help_panel", None)]


def _name(option: Any) -> str:
    return str(max(option.opts, key=len))


def _shown(default: object) -> str:
    """Return a default as the page writes it."""
    match default:
        case bool():
            return "on" if default else "off"
        case None | "" | [] | ():
            return "–"  # noqa: RUF001 - as the page has it
        case _:
            return f"`{default}`"


def test_each_option_is_in_its_group_with_its_default() -> None:
    """Groups and their order are those of `threadlets serve --help`."""
    expected: dict[str, dict[str, str]] = {}
    for option in _options():
        group = expected.setdefault(str(option.rich_help_panel), {})  # type: ignore[attr-defined]
        group[_name(option)] = _shown(option.default)
    text = _section("Options")
    rows = r"^\| `(--[a-z-]+)` \| (\S+) \|"
    found = {
        title: dict(re.findall(rows, _section(title, 3), re.MULTILINE))
        for title in re.findall(r"^### (.*)$", text, re.MULTILINE)
    }
    assert expected == found
    assert list(expected) == list(found)


def test_each_field_of_config_is_an_option_of_the_page() -> None:
    """Those that have another name there are named."""
    options = {_name(it).removeprefix("--").replace("-", "_") for it in _options()}
    assert {"headers"} == {it.name for it in dataclasses.fields(Config)} - options
    assert "`headers`" in _section("In a program")


def test_defaults_of_config_are_those_of_the_page() -> None:
    """A program gets the same server as the command."""
    fields = {it.name: it.default for it in dataclasses.fields(Config)}
    for option in _options():
        name = _name(option).removeprefix("--").replace("-", "_")
        if name in fields and name != "access_log":
            assert fields[name] == option.default, name
    assert "plain" == fields["access_log"]


def _families() -> dict[str, Any]:
    counts: dict[str, Any] = collections.defaultdict(int)
    counts |= {"responses": [0] * 6, "response_time_bounds_us": [1], "response_times": [0, 0]}
    return families(counts)


def test_each_metric_is_in_its_table_with_its_kind() -> None:
    """No other is."""
    rows = re.findall(r"^\| `(threadlets_\w+)` \| (\w+) \|", _section("Metrics"), re.MULTILINE)
    assert {name: it.kind for name, it in _families().items()} == dict(rows)


@pytest.mark.parametrize("name", ["threadlets_refusals_total", "threadlets_timeouts_total"])
def test_values_of_labels_are_on_the_page(name: str) -> None:
    """The row of a metric names them."""
    (row,) = re.findall(rf"^\| `{name}` .*$", _section("Metrics"), re.MULTILINE)
    labels = [value for labels in _families()[name].values for _, value in labels]
    assert labels
    assert [] == [it for it in labels if f"`{it}`" not in row]


def test_statuses_of_limits_are_those_of_the_table() -> None:
    """What an option's help says about its status, the table of statuses has."""
    statuses = set(re.findall(r"^\| (\d{3}) \|", _section("Limits and statuses"), re.MULTILINE))
    told = {it for option in _options() for it in re.findall(r"\((\d{3})\)", option.help or "")}
    assert told
    assert set() == told - statuses


def test_links_of_the_page_lead_somewhere() -> None:
    """To a heading of it, or to another page."""
    headings = re.findall(r"^#+ (.*)$", _TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", it).lower().replace(" ", "-") for it in headings}
    links = re.findall(r"\]\(([^)]+)\)", _TEXT)
    assert [] == [it for it in links if it.startswith("#") and it[1:] not in anchors]
    files = [it.partition("#")[0] for it in links if not it.startswith(("#", "http"))]
    assert [] == [it for it in files if not (_PAGE.parent / it).exists()]

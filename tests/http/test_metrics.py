"""Metrics as Prometheus reads them."""

from __future__ import annotations

import pytest
from threadlets.http._metrics import Family, Histogram, format_metrics

_FAMILIES = {
    "http_requests_total": Family(
        "counter", "Requests\nthat \\ ended.", {(("status", "200"),): 3, (("status", "404"),): 1.5}
    ),
    "http_connections": Family("gauge", "Open connections.", {(): 2}),
    "http_seconds": Family(
        "histogram",
        "Duration.",
        {(("path", '/a"\\\n'),): Histogram((0.1, 1.0), (4, 2, 1), 3.25)},
    ),
}
_TEXT = r"""# HELP http_requests_total Requests\nthat \\ ended.
# TYPE http_requests_total counter
http_requests_total{worker="1",status="200"} 3
http_requests_total{worker="1",status="404"} 1.5
# HELP http_connections Open connections.
# TYPE http_connections gauge
http_connections{worker="1"} 2
# HELP http_seconds Duration.
# TYPE http_seconds histogram
http_seconds_bucket{worker="1",path="/a\"\\\n",le="0.1"} 4
http_seconds_bucket{worker="1",path="/a\"\\\n",le="1.0"} 6
http_seconds_bucket{worker="1",path="/a\"\\\n",le="+Inf"} 7
http_seconds_sum{worker="1",path="/a\"\\\n"} 3.25
http_seconds_count{worker="1",path="/a\"\\\n"} 7
"""


def test_text_is_prometheus_own() -> None:
    """Help and type of each metric, then its values; the ranges of a histogram add up."""
    assert _TEXT == format_metrics(_FAMILIES, (("worker", "1"),))


def test_no_metrics_are_no_text() -> None:
    """An empty answer is valid, too."""
    assert "" == format_metrics({})


def test_prometheus_own_parser_reads_the_same() -> None:
    """What is escaped comes back."""
    parser = pytest.importorskip("prometheus_client.parser")
    found = {it.name: it for it in parser.text_string_to_metric_families(format_metrics(_FAMILIES))}
    # The parser leaves out what every counter's name ends in.
    requests = found["http_requests"]
    assert ("counter", "Requests\nthat \\ ended.") == (requests.type, requests.documentation)
    assert {"200": 3.0, "404": 1.5} == {it.labels["status"]: it.value for it in requests.samples}
    assert [2.0] == [it.value for it in found["http_connections"].samples]
    buckets = [it for it in found["http_seconds"].samples if it.name.endswith("_bucket")]
    assert [("0.1", 4.0), ("1.0", 6.0), ("+Inf", 7.0)] == [
        (it.labels["le"], it.value) for it in buckets
    ]
    assert {'/a"\\\n'} == {it.labels["path"] for it in buckets}


@pytest.mark.parametrize(
    ("families", "labels", "message"),
    [
        ({"a-b": Family("gauge", "", {(): 1})}, (), "no name of a metric"),
        ({"a": Family("gauge", "", {(): 1})}, (("a-b", ""),), "no name of a label"),
        ({"a": Family("histogram", "", {(): Histogram((1,), (1,), 0)})}, (), "one more count"),
    ],
)
def test_what_prometheus_would_not_read_is_refused(
    families: dict[str, Family], labels: tuple[tuple[str, str], ...], message: str
) -> None:
    """Names, and histograms whose counts do not fit their bounds."""
    with pytest.raises(ValueError, match=message):
        format_metrics(families, labels)

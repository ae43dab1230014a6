"""The seed's load: 8,000 clients at a time, with new connections, with kept ones, and with slow readers.

The claims: static files and ASGI as fast as nginx with new connections; with kept ones, a request costs
no more CPU time than nginx's, ASGI two thirds of granian's, WSGI a fifth of gunicorn's; slow readers get
nine tenths of nginx's answers, in twice its memory; a connection that is idle takes 4 KiB.
"""

from __future__ import annotations

import importlib.util
import json
import shutil

from benches.network import namespace
from benches.placement import python, run_pinned
from benches.scenario import (
    Budget,
    Case,
    Figures,
    MeasurementFailed,
    Metric,
    NotApplicable,
    Scenario,
)
from benches.seed.loads import TIMEOUT_S
from benches.seed.plan import BACKLOG, Plan

_N_CONNECTIONS = 8000
_SECONDS = 5
#: The requests of a measurement of `_SECONDS`; shorter ones have fewer.
_N_REQUESTS = {"new": 80_000, "slow": 40_000}
_STATIC = ("threadlets", "nginx", "lighttpd")
_ASGI = ("threadlets", "nginx", "granian-asgi", "granian-rsgi", "uvicorn")
_WSGI = (
    "threadlets",
    "granian-wsgi",
    "gunicorn-gthread",
    "gunicorn-gevent",
    "fastpysgi",
    "gevent",
)
#: What a load needs beside the load generator: programs, and their Debian packages.
_PROGRAMS = {"ab": "apache2-utils", "wrk": "wrk"}


def measure(case: Case, peer: str, budget: Budget) -> Figures:
    """Load one fresh server in a namespace of its own, from the other CPU."""
    for program, package in _PROGRAMS.items():
        if shutil.which(program) is None:
            raise NotApplicable(f"{program} is not on the PATH; apt install {package}")
    plan = plan_of(case, peer, budget)
    if plan.kind == "fastapi" and importlib.util.find_spec("fastapi") is None:
        raise NotApplicable("fastapi is not installed; pip install fastapi")
    argv = [*namespace(with_processes=True), *python("benches.seed", plan.to_json())]
    # Each side is pinned where it is started.
    printed = run_pinned(argv, {*plan.server_cpus, *plan.load_cpus}, 2 * TIMEOUT_S)
    result = json.loads(printed)
    if "failed" in result:
        raise MeasurementFailed(result["failed"])
    figures: Figures = result["figures"]
    return figures


def plan_of(case: Case, peer: str, budget: Budget) -> Plan:
    """Return what a measurement does."""
    load = str(case.parameters["load"])
    n_connections = int(case.parameters["n_connections"])
    share = min(1, budget.seconds / _SECONDS)
    n_workers = int(case.parameters.get("n_workers", 1))
    placement = budget.placement
    cpus = {placement.server_cpu, placement.load_cpu} if n_workers > 1 else {placement.server_cpu}
    somaxconn = case.parameters.get("somaxconn", BACKLOG)
    return Plan(
        peer=peer,
        kind=str(case.parameters["kind"]),
        load=load,
        size=str(case.parameters["size"]),
        n_connections=n_connections,
        # At least two requests for each of the concurrent connections.
        n_requests=max(2 * n_connections, round(share * _N_REQUESTS.get(load, 0))),
        seconds=budget.seconds,
        n_workers=n_workers,
        server_cpus=tuple(sorted(cpus)),
        load_cpus=(placement.load_cpu,),
        somaxconn=None if somaxconn == "as it is" else int(somaxconn),
    )


def _case(
    load: str,
    kind: str,
    size: str,
    peers: tuple[str, ...],
    goals: dict[str, str],
    name: str = "",
    n_connections: int = _N_CONNECTIONS,
    **more: str | int,
) -> Case:
    parameters = {"load": load, "kind": kind, "size": size, "n_connections": n_connections}
    held = load in ("idle", "stalled")
    return Case(
        name=name or f"{load}-{kind}-{size}",
        metrics=tuple(
            Metric(name, unit, "higher" if name == "requests_per_s" else "lower", goals.get(name))
            for name, unit in (_HELD if held else _TIMED).items()
        ),
        parameters=parameters | more,
        peers=peers,
    )


_TIMED = {
    "requests_per_s": "req/s",
    "server_cpu_us_per_request": "us",
    "latency_ms_p50": "ms",
    "latency_ms_p99": "ms",
    "peak_rss_mib": "MiB",
    "n_errors": "errors",
    "n_listen_overflows": "overflows",
}
_HELD = {"bytes_each": "B", "kernel_bytes_each": "B"}
_AS_NGINX = {"requests_per_s": ">=1x nginx", "n_errors": "<=0", "n_listen_overflows": "<=1x nginx"}
_AS_NGINX_KEPT = {"server_cpu_us_per_request": "<=1x nginx", "n_errors": "<=0"}


def _slow_cases(load: str) -> tuple[Case, ...]:
    as_nginx = {"peak_rss_mib": "<=2x nginx", "n_errors": "<=0"}
    return (
        _case(load, "static", "80k", _STATIC, as_nginx | {"requests_per_s": ">=0.9x nginx"}),
        _case(load, "asgi", "80k", _ASGI, as_nginx | {"requests_per_s": ">=2x granian-asgi"}),
        _case(
            *(load, "wsgi", "80k", _WSGI),
            {"requests_per_s": ">=2x granian-wsgi", "n_errors": "<=0"},
        ),
    )


SCENARIO = Scenario(
    name="seed",
    doc="Web servers under 8,000 clients at a time, one worker each, the load on another CPU.",
    cases=(
        _case("new", "static", "1k", _STATIC, _AS_NGINX),
        _case("new", "asgi", "1k", _ASGI, _AS_NGINX),
        _case("new", "wsgi", "1k", _WSGI, {"n_errors": "<=0"}),
        _case(
            *("new", "static", "1k", _STATIC, _AS_NGINX),
            name="new-static-1k-default-backlog",
            somaxconn="as it is",
        ),
        _case("kept", "static", "1k", _STATIC, _AS_NGINX_KEPT),
        _case("kept", "static", "80k", _STATIC, _AS_NGINX_KEPT),
        _case(
            *("kept", "asgi", "1k", _ASGI),
            {"server_cpu_us_per_request": "<=0.67x granian-asgi", "n_errors": "<=0"},
        ),
        _case(
            *("kept", "wsgi", "1k", _WSGI),
            {
                "requests_per_s": ">=1x granian-wsgi",
                "server_cpu_us_per_request": "<=0.2x gunicorn-gthread",
                "n_errors": "<=0",
            },
        ),
        *_slow_cases("blocked"),
        *_slow_cases("slow"),
        _case("idle", "static", "1k", _STATIC, {"bytes_each": "<=4096"}),
        _case("idle", "asgi", "1k", _ASGI, {"bytes_each": "<=4096"}),
        _case("idle", "wsgi", "1k", _WSGI, {"bytes_each": "<=4096"}),
        _case("stalled", "static", "80k", _STATIC, {}),
        _case("stalled", "asgi", "80k", _ASGI, {}),
        # gunicorn's threads serve as many readers as they are.
        _case("stalled", "wsgi", "80k", tuple(it for it in _WSGI if it != "gunicorn-gthread"), {}),
        _case(
            *("kept", "fastapi", "1k"),
            ("threadlets", "async-def", "uvicorn", "uvicorn-async-def"),
            {"server_cpu_us_per_request": "<=1.2x async-def", "n_errors": "<=0"},
            n_connections=100,
            name="fastapi-def",
        ),
        _case(
            *("kept", "computing", "1k", ("threadlets", "one-worker")),
            {"requests_per_s": ">=1.8x one-worker", "n_errors": "<=0"},
            n_connections=100,
            name="two-workers",
            n_workers=2,
        ),
    ),
    measure=measure,
    peers=tuple(
        dict.fromkeys((*_STATIC, *_ASGI, *_WSGI, "async-def", "uvicorn-async-def", "one-worker"))
    ),
    seconds=_SECONDS,
    legend=(
        "new: `ab -c 8000 -n 80000`, a connection for each request. kept: `wrk -t1 -c 8000`, on "
        "connections that stay open; fastapi-def and two-workers: 100 of them. The backlog that each "
        "server asks for is 16384; so is the kernel's bound, in a network namespace of its own "
        "(default-backlog: the kernel's default, 4096).",
        "blocked: as kept, but the kernel's send buffer (`tcp_wmem`) is 16 KiB, so that no answer can be "
        "sent at once. slow: so, too, and 40,000 readers, 8,000 at a time, each on a connection of its "
        "own, take 16 KiB and pause for 20 ms; it ends after 30 s.",
        "server_cpu: user and system time of all processes and threads of the server. peak_rss: the sum "
        "of its processes' peaks. Nobody writes an access log.",
        "bytes_each: by how much the server is larger (RSS) with 8,000 open connections, for each; idle: "
        "each has had one answer; stalled: nobody reads the answer. kernel_bytes_each: the same of the "
        "kernel's slabs, for both ends of the connection.",
        "In the tables of ASGI nginx serves a file of the same size. granian: its main and its worker "
        "process, on uvloop. uvicorn: on uvloop, with httptools. gunicorn-gthread: 4 threads.",
        "fastapi-def: a plain function, of threadlets and of uvicorn; async-def, uvicorn-async-def: the "
        "same as a coroutine function. two-workers: 0.5 ms of computing for each request, on both CPUs, "
        "one of which has the load, too; one-worker: the same with one.",
    ),
)

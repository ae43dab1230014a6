"""What `threadlets serve` does with its options: in this process, or by a supervisor and its workers."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from threadlets._user_error import STATUS_USAGE, UserError
from threadlets.cli._limits import DescriptorLimit, raise_descriptor_limit
from threadlets.cli._settings import Setting
from threadlets.http import ConfigError
from threadlets.http._config import Config
from threadlets.http._cpus import usable_cpus
from threadlets.http._launch import Launch
from threadlets.http._listen import bind, bind_metrics, describe
from threadlets.http._logging import logger, set_up_logging
from threadlets.http._reload import Patterns, Watcher
from threadlets.http._supervisor import Supervisor
from threadlets.http._systemd import Notifier, take_sockets
from threadlets.http._tls import tls_options
from threadlets.http._worker import serve_here

# Descriptors for anything but connections: the loop, the log, the application's own files.
_N_DESCRIPTORS_SPARE = 64


def serve_as_asked(context: Any) -> int:
    """Serve until told to stop, as the parsed options say, and return the exit status."""
    given: Mapping[str, Any] = context.params
    launch = _launch(context, given, context.obj)
    is_reload = given["reload"]
    n_workers = _count_workers(given["workers"], is_reload=is_reload)
    if n_workers is None:
        return _serve_in_this_process(launch)
    patterns = Patterns(given["reload_include"] or (), given["reload_exclude"] or ())
    watched = (given["reload_dir"] or ["."], patterns) if is_reload else None
    return _supervise(launch, n_workers, watched)


def is_typed(context: Any, name: str) -> bool:
    """Return whether a value is from the command line."""
    source = context.get_parameter_source(name) if context is not None else None
    return source is not None and source.name == "COMMANDLINE"


# -- from options to a launch ----------------------------------------------------------------------


def _launch(context: Any, given: Mapping[str, Any], settings: Mapping[str, Setting]) -> Launch:
    """Return what was asked for; a value that cannot be is reported by where it is from."""
    if given["target"] is None:
        raise UserError(
            fact="there is nothing to serve",
            cause="no TARGET was given",
            remedy="threadlets serve FOLDER, or threadlets serve package.module:app",
            status=STATUS_USAGE,
        )
    fields = {it.name: given[it.name] for it in dataclasses.fields(Config) if it.name in given}
    fields["access_log"] = given["access_log_format"] if given["access_log"] else None
    try:
        fields["headers"] = tuple(_split_header(it) for it in given["header"] or ())
        if given["access_log_format"] not in ("plain", "json"):
            # Also where nothing is logged.
            Config(access_log=given["access_log_format"])
        config = Config(**fields)
    except ConfigError as error:
        name = {"headers": "header", "access_log": "access_log_format"}.get(
            error.field, error.field
        )
        option = _option_name(name)
        if name in settings and not is_typed(context, name):
            option = settings[name].source
        raise UserError(
            fact=f"{option} cannot be {_shown(error.value)}",
            cause=_with_option_names(error.cause),
            remedy=_with_option_names(error.remedy),
            status=STATUS_USAGE,
        ) from None
    return Launch(
        target=given["target"],
        app_dir=given["app_dir"],
        factory=given["factory"],
        debug=given["debug"],
        config=config,
    )


def _split_header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise ConfigError(
            "headers", text, "the colon between name and value is missing", "use NAME:VALUE"
        )
    return name.strip(), value.strip()


def _option_name(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"'{name}: {text}'" for name, text in value)
    return f"'{value}'" if isinstance(value, str) else str(value)


def _with_option_names(text: str) -> str:
    """Name fields of the configuration as the command line does."""
    names = {it.name for it in dataclasses.fields(Config) if "_" in it.name}
    return re.sub(r"\w+", lambda it: _option_name(it[0]) if it[0] in names else it[0], text)


def _count_workers(text: str | None, *, is_reload: bool) -> int | None:
    """Return the number of worker processes; None if this process serves itself."""
    if text is None:
        return 1 if is_reload else None
    n_workers = 0
    if text == "auto":
        n_workers = usable_cpus()
    elif text.isascii() and text.isdecimal():
        n_workers = int(text)
    if n_workers < 1:
        raise UserError(
            fact=f"--workers cannot be '{text}'",
            cause="it is a number of processes, 1 or more, or 'auto'",
            remedy="use --workers auto for one on each CPU",
            status=STATUS_USAGE,
        )
    if is_reload and n_workers > 1:
        raise UserError(
            fact=f"--reload and --workers {text} cannot be used together",
            cause="what is reloaded has one worker",
            remedy="leave one of them out; SIGHUP reloads several workers",
            status=STATUS_USAGE,
        )
    return n_workers


# -- to serve --------------------------------------------------------------------------------------


def _serve_in_this_process(launch: Launch) -> int:
    config = launch.config
    limit = _raise_limit(config)
    target = launch.load()
    tls_options(config)  # To refuse them before anything is bound.
    notifier = Notifier()
    listeners = take_sockets(config.backlog) or bind(config)[0]
    set_up_logging(config.log_level)
    _log_limit(limit)

    def ready(listeners: list[socket.socket]) -> None:
        logger.info("Serving %s on %s (Ctrl-C stops)", target.title, _places(listeners, config))
        notifier.ready()

    try:
        return serve_here(launch, target, listeners, ready)
    finally:
        notifier.stopping()
        _remove_socket_file(config)


def _supervise(launch: Launch, n_workers: int, watched: tuple[list[str], Patterns] | None) -> int:
    config = launch.config
    limit = _raise_limit(config)
    tls_options(config)
    if watched is not None:
        _check_folders(watched[0])
    notifier = Notifier()
    inherited = take_sockets(config.backlog)
    groups = [inherited] * n_workers if inherited else bind(config, n_workers)
    metrics_listeners = bind_metrics(config)
    set_up_logging(config.log_level)
    _log_limit(limit)

    def ready() -> None:
        logger.info(
            "Serving %s on %s by %d worker%s (Ctrl-C stops, SIGHUP reloads)",
            launch.target,
            _places(groups[0], config),
            n_workers,
            "s" if n_workers > 1 else "",
        )

    watcher = None if watched is None else Watcher(*watched)
    try:
        return Supervisor(
            launch,
            groups,
            on_ready=ready,
            notifier=notifier,
            watcher=watcher,
            metrics_listeners=metrics_listeners,
        ).run()
    finally:
        if watcher is not None:
            watcher.close()
        _remove_socket_file(config)


def _check_folders(folders: list[str]) -> None:
    for folder in folders:
        if not os.path.isdir(folder):
            raise UserError(
                fact=f"cannot watch '{folder}'",
                cause="there is no such folder",
                remedy="check --reload-dir",
                status=STATUS_USAGE,
            )


def _places(listeners: list[socket.socket], config: Config) -> str:
    is_tls = config.ssl_certfile is not None
    return ", ".join(describe(it, is_tls=is_tls) for it in listeners)


def _remove_socket_file(config: Config) -> None:
    if config.uds is not None:
        with suppress(OSError):
            os.unlink(config.uds)


def _raise_limit(config: Config) -> DescriptorLimit:
    n_connections = max(config.backlog, config.limit_connections or 0)
    return raise_descriptor_limit(max(8192, n_connections + _N_DESCRIPTORS_SPARE))


def _log_limit(limit: DescriptorLimit) -> None:
    if limit.was_raised:
        logger.info("Raised the descriptor limit from %d to %d", limit.n_before, limit.n_now)
    if limit.is_short:
        logger.warning(
            "Only %d descriptors are allowed, so about %d connections: ulimit -n %d allows more",
            limit.n_now,
            limit.n_now - _N_DESCRIPTORS_SPARE,
            limit.n_needed,
        )

"""A network namespace for one measurement: the backlog, the buffers and the kernel's counters are its own."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
import subprocess
from pathlib import Path

from benches.scenario import NotApplicable

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def namespace(*, with_processes: bool = False) -> list[str]:
    """Return the command that runs another one in a network namespace of its own.

    ``with_processes`` gives it a namespace of processes, too: none of them survives the command.

    :raises NotApplicable: this system does not allow it.
    """
    argv = ["unshare", "--net"]
    if os.geteuid() != 0:
        argv += ["--user", "--map-root-user"]
    if with_processes:
        argv += ["--pid", "--fork", "--kill-child", "--mount-proc"]
    try:
        subprocess.run([*argv, "true"], check=True, capture_output=True, text=True, timeout=30)
    except FileNotFoundError as error:
        raise NotApplicable("unshare is not on the PATH; apt install util-linux") from error
    except subprocess.CalledProcessError as error:
        raise NotApplicable(
            f"no network namespace ({error.stderr.strip()}); run it as root, or allow user namespaces"
        ) from error
    return argv


def raise_loopback() -> None:
    """Bring up the only interface of a new namespace."""
    with socket.socket() as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def set_kernel(name: str, value: str) -> None:
    """Set one of the kernel's settings of this namespace: ``net.core.somaxconn`` and so on."""
    Path("/proc/sys", *name.split(".")).write_text(value)


def kernel(name: str) -> str:
    """Return one of the kernel's settings."""
    return Path("/proc/sys", *name.split(".")).read_text().strip()


def n_listen_overflows() -> int:
    """Return how many connections of this namespace found the backlog full."""
    names, values = re.findall(r"^TcpExt: (.*)$", Path("/proc/net/netstat").read_text(), re.M)
    return int(dict(zip(names.split(), values.split(), strict=True))["ListenOverflows"])

"""The scenarios, one file each, in the order they run."""

from benches.scenarios import (
    accept,
    bystander,
    calls,
    cancel,
    connections,
    echo,
    files,
    fp,
    parked,
    seed,
    start,
    syslet,
    transition,
)

ALL = (
    transition.SCENARIO,
    calls.SCENARIO,
    echo.SCENARIO,
    accept.SCENARIO,
    connections.SCENARIO,
    seed.SCENARIO,
    bystander.SCENARIO,
    files.SCENARIO,
    files.RINGS,
    syslet.SCENARIO,
    parked.SCENARIO,
    cancel.SCENARIO,
    fp.SCENARIO,
    start.SCENARIO,
)

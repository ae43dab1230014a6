"""The scenarios, one file each, in the order they run."""

from benches.scenarios import accept, bystander, calls, echo, files, fp, syslet, transition

ALL = (
    transition.SCENARIO,
    calls.SCENARIO,
    echo.SCENARIO,
    accept.SCENARIO,
    bystander.SCENARIO,
    files.SCENARIO,
    syslet.SCENARIO,
    fp.SCENARIO,
)

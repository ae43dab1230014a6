"""The scenarios, one file each, in the order they run."""

from benches.scenarios import accept, bystander, calls, echo, transition

ALL = (
    transition.SCENARIO,
    calls.SCENARIO,
    echo.SCENARIO,
    accept.SCENARIO,
    bystander.SCENARIO,
)

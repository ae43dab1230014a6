"""The scenarios, one file each, in the order they run."""

from benches.scenarios import accept, echo, transition

ALL = (transition.SCENARIO, echo.SCENARIO, accept.SCENARIO)

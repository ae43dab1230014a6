"""How long property tests may take: as long as they need; how many cases: HYPOTHESIS_PROFILE."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_ENOUGH = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", settings(max_examples=100, **_ENOUGH))
settings.register_profile("long", settings(max_examples=10_000, **_ENOUGH))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

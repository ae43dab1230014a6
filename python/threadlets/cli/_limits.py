"""The descriptor limit, which is raised as far as the system allows it."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from threadlets._user_error import UserError

N_DESCRIPTORS_NEEDED = 8192
N_DESCRIPTORS_MIN = 256
_N_DESCRIPTORS_MAX = 1_048_576


@dataclass(frozen=True)
class DescriptorLimit:
    """The soft limit as found and as it is now."""

    n_before: int
    n_now: int
    n_needed: int

    @property
    def was_raised(self) -> bool:
        return self.n_now > self.n_before

    @property
    def is_short(self) -> bool:
        return self.n_now < self.n_needed


def raise_descriptor_limit(n_needed: int = N_DESCRIPTORS_NEEDED) -> DescriptorLimit:
    """Raise the soft RLIMIT_NOFILE to the hard limit if it is below `n_needed`.

    Below 256 descriptors there is no point in starting: that is a `UserError`.
    """
    soft_as_found, hard_as_found = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = _replace_infinity(soft_as_found), _replace_infinity(hard_as_found)
    n_now = soft
    if soft < n_needed and soft < hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard_as_found))
            n_now = hard
        except (OSError, ValueError):
            # Some systems cap the soft limit below the hard one they report.
            n_now = soft
    if n_now < N_DESCRIPTORS_MIN:
        raise UserError(
            fact=f"only {n_now} file descriptors are allowed",
            cause=f"each connection needs one, and the hard limit is {hard}",
            remedy=f"ulimit -n {n_needed}, or raise LimitNOFILE of the service",
        )
    return DescriptorLimit(n_before=soft, n_now=n_now, n_needed=n_needed)


def _replace_infinity(limit: int) -> int:
    # Infinite is -1. Some libraries walk all descriptors up to the limit, so we stop at a million.
    return _N_DESCRIPTORS_MAX if limit == resource.RLIM_INFINITY else limit

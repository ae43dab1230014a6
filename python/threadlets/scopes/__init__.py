"""Scopes: requests that are cancelled, awaited and accounted for together."""

from typing import TYPE_CHECKING

from threadlets._lazy import load_on_demand
from threadlets.scopes.blocked import BlockedFunction, DrainTimeoutError
from threadlets.scopes.ledger import Ledger, ledger

if TYPE_CHECKING:
    from threadlets.scopes.scope import Scope
else:
    # Loaded on demand, since it imports everything that it can start.
    __getattr__ = load_on_demand(__name__, {"Scope": "threadlets.scopes.scope"})

__all__ = ["BlockedFunction", "DrainTimeoutError", "Ledger", "Scope", "ledger"]

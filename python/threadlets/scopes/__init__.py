"""Scopes: requests that are cancelled, awaited and accounted for together."""

from threadlets.scopes.blocked import BlockedFunction, DrainTimeoutError
from threadlets.scopes.ledger import Ledger, ledger
from threadlets.scopes.scope import Scope

__all__ = ["BlockedFunction", "DrainTimeoutError", "Ledger", "Scope", "ledger"]

"""Scopes: requests that are cancelled, awaited and accounted for together."""

"""Clients that go away: everything that a request has started ends with its client's connection."""

"""The `calls` scenario: ways of calling a plain function that may block, and loads of calls."""

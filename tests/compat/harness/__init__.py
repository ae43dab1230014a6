"""Judge an event loop by the tests that CPython ships for its own."""

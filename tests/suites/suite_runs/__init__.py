"""The suites of other projects, run on two loops and compared."""

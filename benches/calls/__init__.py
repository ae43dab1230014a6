"""What the `calls` scenario runs: ways of calling a plain function that may block, and loads of calls."""

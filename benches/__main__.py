"""Run the benchmarks: ``python -m benches``."""

from benches.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

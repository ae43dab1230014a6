"""Benchmarks: scenarios on threadlets and other event loops, which alternate in one run.

``python -m benches --list`` lists them. Results are ratios to the peers; raw figures are kept under
``benches/results``.
"""

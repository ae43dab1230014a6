"""Benchmarks: scenarios measured against other event loops, alternated in one run.

``python -m benches --list`` names them. Results are ratios against the peers; raw figures are kept
under ``benches/results``.
"""

"""How fast the fused ops and the training step are: ratios against plain PyTorch, taken in one process and run.

`sivae bench` or `python -m benchmarks` measures, appends rows to `results/` and prints tables;
`pytest benchmarks --benchmark-only` times the same cases by pytest-benchmark, for tracking over time.
"""

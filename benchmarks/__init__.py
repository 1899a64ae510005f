"""How fast the fused ops and the training step are: ratios against plain PyTorch, taken in one process and run.

`python -m benchmarks` prints them; `pytest benchmarks --benchmark-only` times the same cases for tracking over time.
"""

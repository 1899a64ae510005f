"""Benchmarks of the fused ops and the training step, as ratios to plain PyTorch in the same process and rounds.

`sivae bench` or `python -m benchmarks` measures, appends rows to `results/` and prints tables. `pytest benchmarks
--benchmark-only` times the same cases with pytest-benchmark. `python -m benchmarks.gpu` runs on a machine with a GPU.
"""

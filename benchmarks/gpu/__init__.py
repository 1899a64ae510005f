"""Checks, measurements and a training on a machine with a GPU: `python -m benchmarks.gpu check|speed|train DIR`.

They run with the machine's own Python and without a network, and need a GPU, nvcc, and torch with CUDA. The tests need
pytest too.
"""

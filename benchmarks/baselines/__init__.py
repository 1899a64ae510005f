"""Networks, ops, loaders and a critic in plain PyTorch, as one would write them first, to compare with."""

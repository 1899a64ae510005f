"""Networks, ops and loaders in plain PyTorch, as one would write them first: the other side of every ratio."""

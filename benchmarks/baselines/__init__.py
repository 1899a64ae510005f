"""What a good practitioner first writes in PyTorch: the other side of every ratio. Nothing here uses sivae.ops."""

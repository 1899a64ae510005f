"""The tasks: what a run trains on, draws and measures."""

"""The settings of a run: each is written once, with its default, range and help. Imports no torch."""

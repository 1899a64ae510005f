"""Whole training iterations, timed with the plain loop and with the package's step."""

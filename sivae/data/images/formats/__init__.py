"""Readers of the formats that sets of images come in, one file each."""

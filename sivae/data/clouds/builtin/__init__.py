"""Procedural chairs, tables, planes and lamps, which need no files."""

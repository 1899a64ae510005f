"""Procedural chairs, tables, planes and lamps, which need no files."""

NAME = "shapes"  # names the set where a path is expected


def is_named(path: str) -> bool:
    """Whether a path is the name of the set, or of a class of it. A folder of that name is `./shapes`."""
    return path.partition(":")[0] == NAME

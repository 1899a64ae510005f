"""Cut work into tiles. The cut depends only on the shape, so that sums are added in the same order every time."""

from __future__ import annotations

from typing import NamedTuple

FEW_PROGRAMS = 256  # with fewer, tiles get fewer rows, so that a small call uses the whole GPU
ENOUGH_PROGRAMS = 1024  # with more, a program takes several tiles of a long row, one after the other


class Blocks(NamedTuple):
    """The limits of one kernel."""

    elements: int  # of a tile
    warps: int
    steps: int  # tiles of one row that a program may take


# A thread has 8 elements of each operand: two 16-byte loads of float32 from each at once, and enough registers for
# several blocks of threads on a multiprocessor.
LATENT_FORWARD = Blocks(elements=1024, warps=4, steps=8)
LATENT_BACKWARD = Blocks(elements=1024, warps=4, steps=1)
RECONSTRUCTION_FORWARD = Blocks(elements=2048, warps=8, steps=8)
RECONSTRUCTION_BACKWARD = Blocks(elements=1024, warps=4, steps=1)
EXP_ELBO = Blocks(elements=1024, warps=4, steps=1)
STYLED_FORWARD = Blocks(elements=2048, warps=8, steps=16)
STYLED_BACKWARD = Blocks(elements=2048, warps=8, steps=16)
# The largest planes, in elements of float32 or smaller, that one program keeps between their statistics and result.
STYLED_FORWARD_WHOLE = 16384
STYLED_BACKWARD_WHOLE = 8192
# A tile of the distances between CHAMFER_POINTS points and others.
CHAMFER = Blocks(elements=1024, warps=4, steps=1)
CHAMFER_POINTS = 32
# A tile of rows (or components) by components (or dimensions); dimensions that are added before the next level of the
# sum; and the parts of the rows whose sums are added at the end.
MIXTURE = Blocks(elements=1024, warps=4, steps=1)
MIXTURE_COLUMNS = 64
MIXTURE_DIMS = 64
MIXTURE_PARTS = 64
MIXTURE_LEAST_ROWS = 64
# A tile of channels by pixels; channels of it where those of a pixel are side by side.
GROUP_NORM = Blocks(elements=1024, warps=4, steps=8)
GROUP_NORM_CHANNELS = 64
NORMALS = Blocks(elements=1024, warps=4, steps=1)
SUMS = Blocks(elements=4096, warps=8, steps=1)


class Cut(NamedTuple):
    """A call of [rows, cols] elements as programs: pid = row tile * splits + split."""

    tile_rows: int  # this and the next are powers of two
    tile_cols: int
    steps: int  # neighboring tiles of one program
    splits: int  # programs of one row
    programs: int
    warps: int


def power_of_two_from(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def cut(blocks: Blocks, rows: int, cols: int, *, least_cols: int = 1, whole: bool = False) -> Cut:
    """Cut [rows, cols], both at least 1.

    Args:
        least_cols: the narrowest tile, a power of two.
        whole: a call that fits one tile is left to one program, which can then finish a sum over all rows.
    """
    tile_cols = min(max(power_of_two_from(cols), least_cols), blocks.elements)
    tile_rows = min(blocks.elements // tile_cols, power_of_two_from(rows))
    if not (whole and rows <= tile_rows and cols <= tile_cols):
        while tile_rows > 1 and -(-rows // tile_rows) < FEW_PROGRAMS:
            tile_rows //= 2
    row_tiles, col_tiles = -(-rows // tile_rows), -(-cols // tile_cols)
    steps = blocks.steps
    while steps > 1 and (steps > col_tiles or row_tiles * (col_tiles // steps) < ENOUGH_PROGRAMS):
        steps //= 2
    splits = -(-col_tiles // steps)
    # 8 elements per thread where the tile is small.
    warps = min(blocks.warps, power_of_two_from(max(tile_rows * tile_cols // 256, 1)))
    return Cut(tile_rows, tile_cols, steps, splits, row_tiles * splits, warps)

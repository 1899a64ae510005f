"""Draw pictures of images (`grids`) and charts of numbers (`charts`), all in one look (`look`).

Nothing is imported here, as Pillow and matplotlib take time to load.
"""

"""Draw pictures of images (`grids`), point clouds (`clouds`) and charts of numbers (`charts`) in one look (`look`).

Nothing is imported here, as Pillow and matplotlib take time to load.
"""

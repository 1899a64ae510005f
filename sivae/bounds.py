"""State how much a file of another program may ask for; a reader refuses a file that asks for more, by name.

The bounds are far above what data sets and models need, and low enough that a small file can neither take the memory
of a machine nor keep it busy for minutes. What is larger can be read after unpacking it with another program.
"""

from __future__ import annotations

FOLDER_DEPTH = 100  # folders within folders, on the disk and in names of archives
FOLDER_LINKS = 100  # ways by which links lead to one folder
NAME_BYTES = 4096  # a name in an archive with its folders: the longest path that Linux takes
MEMBERS = 10_000_000  # files in one archive
ARCHIVE_HEADER = 1 << 20  # bytes of one extended header of a tar

ALWAYS_UNPACKED = 64 << 20  # bytes that any compressed file may unpack to
UNPACKED_RATIO = 250  # beyond them: unpacked bytes for each compressed byte; those of dSprites are 115
XZ_MEMORY = 1 << 30  # bytes that unpacking xz may take, as its file says

PROGRESSIVE_PIXELS = 1 << 36  # of a progressive JPEG, counted once for each of its scans: they take about ten seconds

PICKLE_DEPTH = 100  # containers within containers
PICKLE_SHARING = 16  # values for each byte of a pickle, where a value counts as often as it is used

ARRAY_HEADER = 10_000  # bytes of the header of a .npy file, as numpy allows
MATLAB_DIMENSIONS = 32

CLOUDS = 1_000_000  # point clouds in one set
CLOUD_ITEMS = 10_000_000  # points, faces or triangles of one of them
CLOUD_TEXT = 128 << 20  # bytes of one that is written as text; its numbers take four times as much
CLOUD_HEADER = 1 << 16  # bytes of the header of a .ply file
CLOUD_PROPERTIES = 256  # numbers and lists of each element that it describes

MODEL_LAYERS = 1000  # linear layers of one network that a setting counts
PRIOR_COMPONENTS = 10_000  # Gaussians of a learned prior, and pseudo-inputs
AUTOENCODER_BLOCKS = 16  # residual blocks at one resolution; the published networks have 2 or 3
MODEL_SIDE = 1 << 14  # pixels; a convolutional network has layers for each halving


def unpacked_limit(packed: int) -> int:
    """How many bytes a compressed file of `packed` bytes may unpack to."""
    return max(ALWAYS_UNPACKED, UNPACKED_RATIO * packed)

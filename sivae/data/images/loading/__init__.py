"""From a set of images to batches: fit all images to one shape, decode them into memory, read steps ahead."""

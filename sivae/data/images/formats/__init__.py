"""The formats that sets of images come in: one reader each, and the table that lists them."""

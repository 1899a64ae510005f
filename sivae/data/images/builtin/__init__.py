"""Sets of images that need no files: scikit-learn's digits, and rendered shapes."""

"""Detect images out of distribution with a trained model.

A score per image comes from `detector`, a threshold from `thresholds`. Whole sets of images are scored in `sets` and
compared in `comparison`; `file_scores` gives every image file of a folder a score.
"""

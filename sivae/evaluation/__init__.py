"""Measure trained models: densities, images, likelihoods, out-of-distribution detection, translations.

Nothing is imported here, as some of the modules import large libraries.
"""

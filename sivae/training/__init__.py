"""Training: one step, and the runs built of it."""

from sivae.training.step import IntroStep, SoftIntroStep, StepNoise, VAEStep

__all__ = ["IntroStep", "SoftIntroStep", "StepNoise", "VAEStep"]

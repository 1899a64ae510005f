"""Score point clouds by how unlike the training data of a model they are, in nats."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sivae.detection.detector import Scores
from sivae.evaluation.likelihood import PixelDensity, estimate, kl_to_prior
from sivae.evaluation.ood import SCORES, Score, anomaly
from sivae.models import VAEModel


@dataclass(frozen=True)
class CloudDetector:
    """A model of point clouds, and the settings that its scores are computed with.

    Attributes:
        model: the model.
        density: its kind is "chamfer": log p(x|z) is minus the weighted distance, up to a constant of all clouds.
        score: the score that decides; "kl" does not run the decoder.
        samples: K of the likelihood, and the number of samples in the mean of the ELBO.
        seed: seed of the noise.
    """

    model: VAEModel
    density: PixelDensity
    score: Score = "likelihood"
    samples: int = 5
    seed: int = 0

    def of_clouds(self, clouds: Tensor, *, first: int = 0) -> Scores:
        """Score clouds.

        Args:
            clouds: [N, points, 3].
            first: the number of the first cloud in its set. The noise of a cloud depends on the seed and its number.

        Returns:
            `kl` alone where that is the score, else all scores: float64 [N] each.
        """
        if self.score == "kl":
            return {"kl": kl_to_prior(self.model, clouds).numpy()}
        found = estimate(
            self.model,
            clouds,
            density=self.density,
            samples=self.samples,
            seed=self.seed,
            numbers=range(first, first + len(clouds)),
        )
        return {score: anomaly(found, score).numpy() for score in SCORES}

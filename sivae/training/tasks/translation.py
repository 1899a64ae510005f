"""The task of learning to separate class and content of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from sivae.errors import ConfigError
from sivae.evaluation.translation import example_rows
from sivae.figures.grids import translation_grid
from sivae.models import TranslationVAE, VAEModel
from sivae.training.measured_images import MeasuredImages
from sivae.training.seeds import derived_seed
from sivae.training.tasks.images import ImageTask

SHOWN = 6  # contents, and classes, in a picture


class TranslationTask(ImageTask):
    """A set of images to learn: in pairs of one class, with codes of images and classes, or without labels."""

    @property
    def _uses_labels(self) -> bool:
        return self.config.paired or self.config.objective.USES_CODES

    def _model_facts(self) -> dict[str, Any]:
        if not self.config.objective.USES_CODES or self._train is None:
            return {"exchanges": self.config.paired}
        if self._train.class_names is None:
            raise ConfigError(
                f"objective = {self.config.objective.name!r}: the images have no classes; sort them into folders"
            )
        return {"coded_images": len(self._train), "coded_classes": len(self._train.class_names)}

    def _condition(self, step: int, labels: Tensor | None) -> Tensor | None:
        """Return the number of each image and of its class, int64 [B, 2], for an objective with codes."""
        if not self.config.objective.USES_CODES:
            return super()._condition(step, labels)
        assert labels is not None and self._batches is not None
        return torch.stack([self._batches.numbers(step - 1), labels], dim=1)

    def picture_samples(self, path: Path, model: VAEModel, step: int) -> list[Path]:
        """Draw the pictures of :meth:`ImageTask.picture_samples`, and translations between test images."""
        pictures = super().picture_samples(path, model, step)
        translations = path.with_stem(f"{path.stem}-translations")
        seed = derived_seed(self.config.seed, "pictures")
        draw_translations(translations, model, self._measured_for(model), seed)
        return [*pictures, translations]


def draw_translations(path: Path, model: VAEModel, images: MeasuredImages, seed: int) -> None:
    """Draw a grid that combines the contents of some images with the classes of others."""
    labels, contents = images.images.labels, images.images.contents
    rows = example_rows(len(images.images), labels, contents, SHOWN, seed)
    giving_content, giving_class = (images.some(of.tolist())[0] for of in rows)
    made = cast(TranslationVAE, model).translations(giving_content, giving_class)
    translation_grid(path, giving_content, giving_class, made, value_range=images.value_range)

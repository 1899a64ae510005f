"""The settings of the comparison, and the trainings that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sivae.errors import ConfigError, RunFolderError
from sivae.json_files import read_json
from sivae.reproduce.begun import SETTINGS, begin, check_same
from sivae.reproduce.experiment import Training
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig

Method = Literal["plain", "patchgan", "encoder"]
METHODS: tuple[Method, ...] = get_args(Method)
TITLES: Mapping[Method, str] = {
    "plain": "plain KL autoencoder",
    "patchgan": "with a PatchGAN critic",
    "encoder": "with the encoder as the critic",
}
_OBJECTIVES: Mapping[Method, str] = {"plain": "vae", "patchgan": "vae", "encoder": "soft-intro"}
_PRESET = "autoencoder-small"
_FORMAT = 1
_CHECKPOINTS = 10  # of a run, for resuming


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Settings of the comparison. What is not here is as the preset autoencoder-small has it.

    Attributes:
        data: images with a training and a test part.
        seconds: of a CPU core, for the iterations of each training.
        seeds: of the trainings.
        resolution, channels: of the images.
        widths, batch_size, learning_rate: see :class:`sivae.settings.run.RunConfig`.
        beta_kl: weight of the KL divergence where the encoder is the critic; it is 1e-6 for the others.
        critic_width: channels of the PatchGAN after its first convolution.
        critic_start: share of the iterations before either critic begins; before, the encoder's is a VAE.
        count: test images at most that a model is measured on.
        components: Gaussians that are fitted to the latents.
    """

    data: str
    seconds: float
    seeds: tuple[int, ...] = (0, 1, 2)
    resolution: int = 32
    channels: int = 3
    widths: tuple[int, ...] = (16, 32, 64)
    batch_size: int = 32
    learning_rate: float = 5e-4
    beta_kl: float = 0.1
    critic_width: int = 32
    critic_start: float = 0.1
    count: int = 2_000
    components: int = 10

    def config(self, method: Method, seed: int, steps: int) -> RunConfig:
        """Return the settings of a training; a run with a PatchGAN has those of a plain autoencoder.

        Raises:
            ConfigError: a value is wrong.
        """
        own: dict[str, Any] = (
            {"beta_kl": self.beta_kl, "warmup_fraction": self.critic_start} if method == "encoder" else {}
        )
        return preset_config(
            _PRESET,
            objective=_OBJECTIVES[method],
            path=self.data,
            resolution=self.resolution,
            channels=self.channels,
            widths=self.widths,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            kind="l1",
            structural=1.0,
            device="cpu",
            threads=1,
            seed=seed,
            steps=steps,
            log_every=1,  # so that every loss that is not finite is seen
            checkpoint_every=max(1, -(-steps // _CHECKPOINTS)),
            keep_checkpoints=1,
            sample_every=steps,
            **own,
        )

    def trainings(self, steps: Mapping[Method, int]) -> list[Training]:
        """Return the trainings of all methods with all seeds, given the iterations of each method."""
        return [
            Training(f"{method}-seed{seed}", self.config(method, seed, steps[method]))
            for seed in self.seeds
            for method in METHODS
        ]

    def critic_starts_after(self, steps: int) -> int:
        """Return the number of iterations of a training that go without the PatchGAN."""
        return round(self.critic_start * steps)

    def keep_in(self, folder: Path) -> None:
        """Write the settings to a folder, or check that it was begun with these.

        Raises:
            RunFolderError: it was begun with others, or holds something else.
        """
        mine = asdict(self)
        if not begin(folder, {"format": _FORMAT, **mine}, "comparison"):
            check_same(folder, asdict(Comparison.of(folder)), mine)

    @classmethod
    def of(cls, folder: Path) -> Comparison:
        """Read the settings that a folder was begun with.

        Raises:
            RunFolderError: the file is damaged.
        """
        remedy = "begin in another folder"
        content: Any = read_json(folder / SETTINGS, cls, error=RunFolderError, remedy=remedy, version=_FORMAT)
        return cls(**{key: content[key] for key in cls.__dataclass_fields__})


def method_of(name: str) -> Method:
    """Return the method of a training by its name.

    Raises:
        ConfigError: there is no such method.
    """
    for method in METHODS:
        if name.startswith(f"{method}-seed"):
            return method
    raise ConfigError(f"{name}: expected a name of a training, such as {METHODS[0]}-seed0; give one")

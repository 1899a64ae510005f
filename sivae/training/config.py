"""What a run is made of, as one frozen record that goes to `config.json` and comes back the same.

Imports no torch, so that the command line can use it before the heavy imports.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sivae.training.errors import ConfigError

if TYPE_CHECKING:
    from sivae.objectives import IntroObjective, SoftIntroObjective, VAEObjective

ObjectiveName = Literal["soft-intro", "intro", "vae"]
Phase = Literal["warm-up", "soft-intro", "intro", "vae"]
ErrorKind = Literal["mse", "l1", "bce", "bce_with_logits"]
Fake = Literal["prior", "reconstruction"]
Semantics = Literal["official", "paper"]

PLANE_KINDS: tuple[ErrorKind, ...] = ("mse", "l1")  # for points of any coordinates

FORMAT = 1  # of config.json; raised when an old reader would misread a new file


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The objective and its weights.

    None stands for the objective's own default, which :meth:`resolved` fills in. A key that the named objective does
    not use stays None.

    Attributes:
        name: "soft-intro", "intro" (IntroVAE's hinge) or "vae".
        beta_rec: weight of the reconstruction error.
        beta_kl: weight of the KL divergence of real samples.
        kind: the reconstruction error, summed over a sample's elements.
        fakes: what counts as a fake: decoded prior samples, reconstructions of real samples, or both
            (soft-intro, intro).
        alpha: soft-intro: the sharpness of the exponential; intro: the weight of the adversarial terms.
        beta_neg: weight of the KL divergence of fakes in the encoder's update (soft-intro).
        gamma_r: weight of the fakes' reconstruction error in the decoder's update (soft-intro).
        scale: the constant `s` that multiplies every ELBO; None: 1/(elements of one sample), which stays None
            (soft-intro).
        semantics: "official" or "paper": whose gradients, where the published code and the paper's Algorithm
            1 differ (soft-intro).
        margin: KL divergence, in nats, that the encoder gives every fake at least (intro).

    Raises:
        ConfigError: a value is of the wrong type or out of range, or of no effect.
    """

    name: ObjectiveName
    beta_rec: float
    beta_kl: float
    kind: ErrorKind | None = None
    fakes: tuple[Fake, ...] | None = None
    alpha: float | None = None
    beta_neg: float | None = None
    gamma_r: float | None = None
    scale: float | None = None
    semantics: Semantics | None = None
    margin: float | None = None

    def __post_init__(self) -> None:
        _conform(self)
        used = objective_keys(self.name)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in used and value is not None:
                users = " or ".join(objectives_with(field.name))
                raise ConfigError(
                    f"{field.name} = {_show(value)}: it has no effect with the objective {self.name!r}; "
                    f"leave it out, or choose the objective {users}"
                )
        if self.fakes is not None and (not self.fakes or len(set(self.fakes)) != len(self.fakes)):
            raise ConfigError(f"fakes = {_show(list(self.fakes))}: name prior, reconstruction, or both, each once")

    def build(self) -> VAEObjective | IntroObjective | SoftIntroObjective:
        """The objective itself."""
        from sivae import objectives

        classes: dict[str, Any] = {
            "vae": objectives.VAEObjective,
            "intro": objectives.IntroObjective,
            "soft-intro": objectives.SoftIntroObjective,
        }
        values = {key: getattr(self, key) for key in objective_keys(self.name) if key != "name"}
        given = {key: value for key, value in values.items() if value is not None}
        built: VAEObjective | IntroObjective | SoftIntroObjective = classes[self.name](**given)
        return built

    def resolved(self) -> ObjectiveConfig:
        """A copy with the objective's defaults in the place of None."""
        built = self.build()
        keys = [key for key in objective_keys(self.name) if key != "name"]
        return dataclasses.replace(self, **{key: getattr(built, key) for key in keys})

    def to_dict(self) -> dict[str, Any]:
        """The keys that the objective uses, ready for JSON."""
        return {key: _plain(getattr(self, key)) for key in objective_keys(self.name)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ObjectiveConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            ConfigError: a key is unknown or missing, or its value is wrong.
        """
        name = values.get("name")
        if name not in _OBJECTIVE_KEYS:
            raise ConfigError(f"objective.name = {_show(name)}: expected one of {', '.join(_OBJECTIVE_KEYS)}")
        _check_keys(values, objective_keys(name), "objective.")
        return cls(**values)


_COMMON_KEYS = ("name", "beta_rec", "beta_kl", "kind")
_OBJECTIVE_KEYS: dict[str, tuple[str, ...]] = {
    "soft-intro": (*_COMMON_KEYS, "fakes", "alpha", "beta_neg", "gamma_r", "scale", "semantics"),
    "intro": (*_COMMON_KEYS, "fakes", "alpha", "margin"),
    "vae": _COMMON_KEYS,
}


def objective_keys(name: str) -> tuple[str, ...]:
    """The keys of :class:`ObjectiveConfig` that the named objective uses."""
    return _OBJECTIVE_KEYS[name]


def objectives_with(key: str) -> list[str]:
    """The names of the objectives that use a key."""
    return [name for name, keys in _OBJECTIVE_KEYS.items() if key in keys]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes, and how often it writes.

    Attributes:
        preset: the preset that it was made from; a name for people.
        density: the two-dimensional density to learn, a key of ``sivae.data.DENSITIES``.
        objective: what is minimised.
        steps: training iterations, the warm-up's included.
        batch_size: samples per iteration.
        learning_rate: Adam's rate for encoder and decoder, before the first milestone.
        warmup_fraction: share of the steps that train a plain VAE before the objective takes over.
        milestones: shares of the steps after which the rate is multiplied by `rate_factor`, ascending.
        rate_factor: see `milestones`.
        z_dim: latent dimensions.
        hidden: width of the MLPs' inner layers.
        layers: number of inner layers.
        seed: decides the initial weights, the data, the noise and the metrics' samples.
        device: "auto" (a GPU when there is one), "cpu", "cuda", "cuda:1" …
        ops: backend of the fused ops; None: the fastest that is there.
        threads: CPU threads; None: torch's own choice.
        log_every: iterations between two records of the losses. Gradients are checked as often.
        checkpoint_every: iterations between two checkpoints.
        sample_every: iterations between two pictures of samples; None: a tenth of the steps.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    preset: str
    density: str
    objective: ObjectiveConfig
    steps: int = 30_000
    batch_size: int = 512
    learning_rate: float = 2e-4
    warmup_fraction: float = 2_000 / 30_000
    milestones: tuple[float, ...] = (1 / 3, 1 / 2)
    rate_factor: float = 0.1
    z_dim: int = 2
    hidden: int = 256
    layers: int = 4
    seed: int = 0
    device: str = "auto"
    ops: str | None = None
    threads: int | None = None
    log_every: int = 25
    checkpoint_every: int = 1_000
    sample_every: int | None = None

    def __post_init__(self) -> None:
        _conform(self)
        if list(self.milestones) != sorted(self.milestones):
            raise ConfigError(f"milestones = {_show(list(self.milestones))}: give them in ascending order")
        if self.objective.kind is not None and self.objective.kind not in PLANE_KINDS:
            raise ConfigError(
                f"kind = {self.objective.kind!r}: points in the plane are not in [0, 1]; "
                f"choose {' or '.join(PLANE_KINDS)}"
            )

    @property
    def warmup_steps(self) -> int:
        """Iterations that train a plain VAE first."""
        return round(self.warmup_fraction * self.steps)

    def phase_at(self, step: int) -> Phase:
        """What iteration `step`, counted from 1, trains: a plain VAE to warm up, or the objective."""
        return "warm-up" if step <= self.warmup_steps else self.objective.name

    def learning_rate_at(self, step: int) -> float:
        """Adam's rate in iteration `step`, counted from 1."""
        passed = sum(step > round(milestone * self.steps) for milestone in self.milestones)
        return self.learning_rate * self.rate_factor**passed

    def to_json(self) -> str:
        """Indented JSON with every key."""
        content: dict[str, Any] = {"format": FORMAT}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            content[field.name] = value.to_dict() if isinstance(value, ObjectiveConfig) else _plain(value)
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """The inverse of :meth:`to_json`.

        Raises:
            ConfigError: it is not JSON or of another format, a key is unknown or missing, a value is wrong.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"not JSON ({error}); restore the file as the run wrote it") from None
        if not isinstance(values, dict):
            raise ConfigError("not a JSON object; restore the file as the run wrote it")
        if values.get("format") != FORMAT:
            raise ConfigError(
                f"format = {_show(values.get('format'))}: this version reads format {FORMAT}; "
                "use the version of sivae that wrote the run"
            )
        values.pop("format")
        _check_keys(values, [field.name for field in dataclasses.fields(cls)], "")
        if not isinstance(values["objective"], dict):
            raise ConfigError("objective: expected an object with a name and weights; restore the file as it was")
        return cls(**{**values, "objective": ObjectiveConfig.from_dict(values["objective"])})

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """Read a `config.json`.

        Raises:
            ConfigError: as for :meth:`from_json`, with the file's name.
            OSError: the file cannot be read.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from None

    def replace(self, **changes: Any) -> RunConfig:
        """A copy with other values. The objective's keys are given flat, beside the run's own.

        Raises:
            ConfigError: a key is unknown, or a value is wrong.
        """
        own = {key: value for key, value in changes.items() if key in _RUN_KEYS}
        weights = {key: value for key, value in changes.items() if key in _WEIGHT_KEYS}
        for key in changes:
            if key not in own and key not in weights:
                raise ConfigError(_unknown(key, (*_RUN_KEYS, *_WEIGHT_KEYS)))
        if weights:
            own["objective"] = dataclasses.replace(own.get("objective", self.objective), **weights)
        return dataclasses.replace(self, **own)


_RUN_KEYS = tuple(field.name for field in dataclasses.fields(RunConfig))
_WEIGHT_KEYS = tuple(field.name for field in dataclasses.fields(ObjectiveConfig) if field.name != "name")

# Each key's range: a test, and the words for what passes it.
_AT_LEAST_1 = (lambda value: value >= 1, "1 or more")
_NOT_NEGATIVE = (lambda value: value >= 0, "0 or more")
_POSITIVE = (lambda value: value > 0, "more than 0")
_SHARE = (lambda value: 0 <= value <= 1, "between 0 and 1")
_RANGES: dict[str, tuple[typing.Callable[[Any], bool], str]] = {
    **dict.fromkeys(("steps", "batch_size", "z_dim", "hidden", "layers", "threads"), _AT_LEAST_1),
    **dict.fromkeys(("log_every", "checkpoint_every", "sample_every"), _AT_LEAST_1),
    **dict.fromkeys(("beta_rec", "beta_kl", "beta_neg", "gamma_r", "margin"), _NOT_NEGATIVE),
    **dict.fromkeys(("learning_rate", "rate_factor", "alpha", "scale"), _POSITIVE),
    "warmup_fraction": _SHARE,
    "milestones": (lambda value: all(0 <= one <= 1 for one in value), "shares between 0 and 1"),
    "seed": (lambda value: 0 <= value < 2**63, "from 0 to 2^63 - 1"),
}


def _conform(config: Any) -> None:
    """Check every field's type and range; whole numbers become floats and lists tuples where those belong."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = _converted(field.name, getattr(config, field.name), hints[field.name])
        object.__setattr__(config, field.name, value)
        if value is not None and field.name in _RANGES:
            passes, words = _RANGES[field.name]
            if not passes(value):
                raise ConfigError(f"{field.name} = {_show(value)}: it must be {words}")


def _converted(key: str, value: Any, hint: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (hint,) = (one for one in arguments if one is not type(None))
        return _converted(key, value, hint)
    if origin is Literal:
        if value in arguments and isinstance(value, str):
            return value
        raise ConfigError(f"{key} = {_show(value)}: expected one of {', '.join(arguments)}")
    if origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_converted(key, one, arguments[0]) for one in value)
        raise ConfigError(f"{key} = {_show(value)}: expected a list")
    if hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        raise ConfigError(f"{key} = {_show(value)}: expected a finite number")
    if hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise ConfigError(f"{key} = {_show(value)}: expected a whole number")
    if not isinstance(value, hint):
        words = {str: "text"}.get(hint, f"an {hint.__name__}")
        raise ConfigError(f"{key} = {_show(value)}: expected {words}")
    return value


def _check_keys(values: Mapping[str, Any], expected: Iterable[str], prefix: str) -> None:
    expected = list(expected)
    for key in values:
        if key not in expected:
            raise ConfigError(prefix + _unknown(key, expected))
    for key in expected:
        if key not in values:
            raise ConfigError(f"{prefix}{key} is missing; put it back, as the run wrote it")


def _unknown(key: str, expected: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, list(expected), n=1)
    hint = f"did you mean {close[0]}?" if close else "remove it"
    return f"{key} is not a known key; {hint}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _show(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str | list | type(None)) else repr(value)

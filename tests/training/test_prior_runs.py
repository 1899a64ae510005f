"""Runs with a learned prior: exact resume, starting from weights, and what refuses one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sivae.errors import ConfigError
from sivae.pretrained import from_pretrained
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training.checkpoint import list_checkpoints
from sivae.training.initial import InitialWeights
from sivae.training.run import train
from sivae.training.tasks.points import PointsTask
from tests.cli.running import run
from tests.training.runs import assert_resumes_exactly


def _config(prior: str, **changes: Any) -> RunConfig:
    settings = {"steps": 12, "hidden": 8, "layers": 1, "batch_size": 16, "threads": 1, "log_every": 4}
    choice = {"prior": prior, "prior_components": 3, "checkpoint_every": 8, "ema_half_life": 64.0}
    return preset_config("8gaussians", **{**settings, **choice, **changes})


@pytest.fixture(autouse=True)
def no_metrics(no_pictures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the metrics, which take longer than short trainings."""
    monkeypatch.setattr(PointsTask, "evaluate", lambda *_: {"nothing": 1.0})


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
def test_a_resumed_run_is_exact(prior: str, tmp_path: Path) -> None:
    config = _config(prior, accumulate=2)
    train(config, tmp_path / "whole", progress=False)
    for step in (2, 10):
        assert_resumes_exactly(step, config, tmp_path / f"stopped-{step}", tmp_path / "whole", task=PointsTask)


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
@pytest.mark.parametrize("objective", ["vae", "intro", "soft-intro"])
def test_the_saved_model_samples_the_trained_prior(prior: str, objective: str, tmp_path: Path) -> None:
    changes = {"objective": objective, "prior": prior, "prior_components": 3}
    train(
        preset_config("8gaussians", **changes, steps=8, hidden=8, layers=1, threads=1), tmp_path / "run", progress=False
    )
    model = from_pretrained(tmp_path / "run")
    assert model.prior is not None
    assert model.hyperparameters["prior"] == prior and model.hyperparameters["prior_components"] == 3
    assert model.prior.logits.any()  # they start at 0
    assert model.sample(5).isfinite().all()


def test_the_averaged_copy_averages_the_prior(tmp_path: Path) -> None:
    train(_config("mixture", ema_half_life=1e9), tmp_path / "run", progress=False)
    averaged, last = from_pretrained(tmp_path / "run"), from_pretrained(tmp_path / "run", averaged=False)
    assert averaged.prior is not None and last.prior is not None
    assert averaged.prior.logits.abs().max() < 0.01 * last.prior.logits.abs().max()


def test_pseudo_inputs_start_from_the_first_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = PointsTask.batch

    def batch(self: PointsTask, step: int) -> tuple[torch.Tensor, None]:
        seen.append(original(self, step)[0])
        return seen[-1], None

    monkeypatch.setattr(PointsTask, "batch", batch)
    train(_config("vamp", prior_components=40, steps=3), tmp_path / "run", progress=False)
    prior = from_pretrained(tmp_path / "run", averaged=False).prior
    rate = _config("vamp").learning_rate
    # Adam's steps are no longer than about the prior's rate; a batch has 16 samples.
    assert (prior.inputs - torch.cat(seen)[:40]).abs().max() <= 3 * 11 * rate


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
def test_a_run_starts_from_a_trained_prior(prior: str, tmp_path: Path) -> None:
    train(_config(prior), tmp_path / "first", progress=False)
    config = _config(prior, init_from=str(tmp_path / "first"), learning_rate=1e-30, steps=1, seed=5)
    train(config, tmp_path / "second", progress=False)
    mine, theirs = (from_pretrained(tmp_path / name).prior.state_dict() for name in ("second", "first"))
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())


def test_a_mixture_starts_from_the_components_of_pseudo_inputs(tmp_path: Path) -> None:
    train(_config("vamp", objective="vae", warmup_fraction=0.0), tmp_path / "first", progress=False)
    config = _config("mixture", init_from=str(tmp_path / "first"), learning_rate=1e-30, steps=1)
    train(config, tmp_path / "second", progress=False)
    mine, theirs = (from_pretrained(tmp_path / name).prior_components() for name in ("second", "first"))
    torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_a_run_starts_a_prior_on_weights_without_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(_config("standard"), tmp_path / "first", progress=False)
    train(_config("vamp", init_from=str(tmp_path / "first"), steps=4), tmp_path / "second")
    assert "new here:\n  prior" in capsys.readouterr().err
    assert from_pretrained(tmp_path / "second").prior is not None


@pytest.mark.parametrize(("there", "here"), [("mixture", "mixture"), ("vamp", "vamp"), ("vamp", "mixture")])
def test_a_prior_with_another_number_of_components_is_named_with_the_number_that_fits(there: str, here: str) -> None:
    source, model = (_config(prior, prior_components=count) for prior, count in ((there, 4), (here, 10)))
    words = InitialWeights("there", source.model.build(data_dim=2)).load_into(model.model.build(data_dim=2))
    assert "prior (logits [4] there, [10] here; --prior-components 4 takes them)" in words


def test_the_prior_that_is_not_taken_is_named() -> None:
    source, model = (_config(prior).model.build(data_dim=2) for prior in ("mixture", "standard"))
    words = InitialWeights("there", source).load_into(model)
    assert "layers taken; the prior is mixture there and standard here; only there:\n  prior" in words


def test_a_file_from_before_the_choice_has_the_standard_prior() -> None:
    old = json.loads(_config("standard").to_json())
    del old["model"]["prior"], old["model"]["prior_components"]
    config = RunConfig.from_json(json.dumps(old))
    assert config.model.prior == "standard" and config.model.build(data_dim=2).prior is None


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("style32", {"prior": "mixture"}, "prior: the model 'style' has the standard prior alone"),
        ("translation-shapes", {"prior": "vamp"}, "prior: the model 'translation' has the standard prior alone"),
        ("mnist-small", {"prior": "mixture", "objective": "tc-vae"}, "only the standard prior allows"),
        ("mnist-small", {"prior": "vamp", "conditional": True}, "pseudo-inputs have no class; choose mixture"),
        ("8gaussians", {"prior": "flow"}, "expected one of standard, mixture, vamp"),
        ("8gaussians", {"prior": "mixture", "prior_components": 0}, "it must be from 1 to 10,000"),
        ("8gaussians", {"prior": "mixture", "prior_components": 10_001}, "it must be from 1 to 10,000"),
    ],
)
def test_settings_that_do_not_go_together(preset: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        preset_config(preset, **changes)


def test_more_pseudo_inputs_than_samples_are_refused(tmp_path: Path) -> None:
    config = preset_config(
        "digits", objective="vae", prior="vamp", prior_components=1_501, widths=(4,), z_dim=2, steps=1
    )
    with pytest.raises(
        ConfigError, match=r"prior_components = 1,501: pseudo-inputs start as samples, and there are 1,\d"
    ):
        train(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_number_of_components_needs_a_learned_prior(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "train", "8gaussians", "--prior-components", 5, "--out", tmp_path / "run")
    assert code == 2 and "prior_components: the standard prior is one Gaussian; leave it out" in err


def test_a_checkpoint_has_the_state_of_the_priors_optimizer(tmp_path: Path) -> None:
    train(_config("mixture"), tmp_path / "run", progress=False)
    last = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    state = torch.load(last / "state.pt", weights_only=True)
    assert set(state["optimizers"]) == {"encoder", "decoder", "prior"}
    assert [moments["exp_avg"].shape for moments in state["optimizers"]["prior"]["state"].values()] == [
        (3,),
        (3, 2),
        (3, 2),
    ]

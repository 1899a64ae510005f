"""Settings that are left open are filled in by the machine, said, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training.folder import read_config
from sivae.training.resolved_settings import changes_notice, freeze_notice, prior_notice, resolve
from sivae.training.run import train


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set how many threads torch has."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def _short(**changes: object) -> RunConfig:
    return preset_config("8gaussians", **{"steps": 5, "batch_size": 8, "hidden": 4, "device": "cpu", **changes})


def test_networks_for_points_take_one_thread_unless_another_number_is_given(threads: Callable[[int], None]) -> None:
    threads(3)
    assert resolve(preset_config("8gaussians")).threads == 1
    assert resolve(preset_config("8gaussians", threads=2)).threads == 2
    assert resolve(preset_config("digits")).threads == 3


@pytest.mark.usefixtures("no_pictures")
def test_a_run_with_fewer_threads_than_torch_has_says_so(
    threads: Callable[[int], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads(2)
    train(_short(), tmp_path / "run")
    assert "CPU threads: 1 of 2; --threads chooses" in capsys.readouterr().err
    assert read_config(tmp_path / "run").threads == 1


@pytest.mark.parametrize(
    ("flags", "precision"), [("sse avx512_bf16", "bf16"), ("sse amx_bf16", "bf16"), ("avx2", "fp32")]
)
def test_the_precision_auto_is_bfloat16_where_the_processor_multiplies_it(
    flags: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path, *_, **__: f"flags : {flags}\n")
    assert resolve(preset_config("digits", device="cpu", precision="auto")).precision == precision
    assert resolve(preset_config("8gaussians", device="cpu", precision="auto")).precision == precision
    assert resolve(preset_config("digits", device="cpu", precision="bf16")).precision == "bf16"


@pytest.mark.usefixtures("no_pictures")
def test_a_run_keeps_the_precision_that_was_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sivae.training.resolved_settings.multiplies_bfloat16", lambda device: True)
    config = _short(precision="auto")
    train(config, tmp_path / "run")
    assert "precision: bf16, chosen for points on this device" in capsys.readouterr().err
    assert read_config(tmp_path / "run").precision == "bf16"
    monkeypatch.undo()
    assert train(config, tmp_path / "run", resume=True)["steps"] == 5


def test_a_network_that_is_frozen_with_random_weights_is_named() -> None:
    assert freeze_notice(_short()) == freeze_notice(_short(freeze="encoder", init_from="run")) == ""
    said = freeze_notice(_short(freeze="encoder"))
    assert said == "the encoder keeps random weights while it is frozen; --init-from names trained ones"


def test_pseudo_inputs_in_an_introspective_objective_are_named_with_what_to_do() -> None:
    assert prior_notice(_short(prior="mixture")) == ""
    assert prior_notice(preset_config("8gaussians", objective="vae", prior="vamp")) == ""
    said = prior_notice(_short(prior="vamp", prior_components=7))
    assert "badly with the objective soft-intro" in said and "--objective vae" in said
    assert "--prior mixture --prior-components 7 --init-from RUN" in said


@pytest.mark.parametrize(("after", "more"), [(1, ""), (3, " (by the schedule it is 1e-05 now)")])
def test_a_changed_rate_is_named_with_what_the_schedule_makes_of_it(after: int, more: str) -> None:
    change = {"after": after, "key": "learning_rate", "before": 5e-4, "now": 1e-4}
    config = _short(milestones=(0.4,), rate_factor=0.1, learning_rate=1e-4, changes=(change,))
    assert changes_notice(config, after) == (f"from step {after + 1} on: learning_rate 0.0001 instead of 0.0005{more}")

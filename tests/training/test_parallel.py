"""Two processes that share batches give the same result as one process with whole batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch.distributed import TCPStore

from sivae.errors import ConfigError, ExchangeError
from sivae.models import MLPVAE
from sivae.models.storage import save_model
from sivae.models.translation import TranslationVAE
from sivae.settings.presets import preset_config
from sivae.settings.run import RunConfig
from sivae.training import parallel
from sivae.training.parallel import Processes, joined
from tests.training import float64_runs
from tests.training.runs import outcome
from tests.training.translation_images import translation_config, write_translation_images

STEPS, RATE = 8, 2e-4
_EVERY = {"steps": STEPS, "learning_rate": RATE, "warmup_fraction": 0.5, "log_every": 2}


def _configs(images: Path, processes: int) -> dict[str, RunConfig]:
    """Settings by name. Half the steps are a warm-up, or LORD's first stage. An epoch of images has six batches."""
    points = {"hidden": 16, "layers": 2, "batch_size": 32, "threads": 1, "device": "cpu"}
    start = {"init_from": str(images.parent / "start"), "freeze": "decoder", "freeze_fraction": 0.75}
    translation = {**_EVERY, "batch_size": 12, "flip": True}
    return {
        "points in parts": preset_config("8gaussians", **_EVERY, **points, accumulate=2 // processes),
        "an automatic weight": preset_config("8gaussians", **_EVERY, **points, beta_neg="auto"),
        "a target decoder": preset_config("8gaussians", **_EVERY, **points, bootstrap=0.002),
        "from weights, frozen for a while": preset_config("8gaussians", **_EVERY, **points, **start),
        "translation of pairs": translation_config(images, **translation, supervision="pairs"),
        "translation by LORD": translation_config(images, **translation, objective="lord"),
    }


_NAMES = list(_configs(Path(), 1))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs by number of processes and name. Two processes start only once, because this takes longer than to train."""
    folder = tmp_path_factory.mktemp("runs")
    images = write_translation_images(folder / "images.npz")
    save_model(folder / "start", MLPVAE(hidden=16, layers=2))
    configs = {
        count: {str(folder / str(count) / name): config.to_json() for name, config in _configs(images, count).items()}
        for count in (1, 2)
    }
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [*start, float64_runs.__file__, "2", json.dumps(configs[2])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as two:
        try:
            float64_runs.train_all(1, configs[1])
            printed, _ = two.communicate(timeout=120)
        finally:
            two.kill()
    assert two.returncode == 0, printed
    return folder


@pytest.mark.parametrize("name", _NAMES)
def test_two_processes_equal_one_with_whole_batches(name: str, runs: Path) -> None:
    """Two processes sum gradients in another order, so a gradient differs by about 1e-16 relative. Adam divides it by
    its size, so a weight differs by about that times the rate; 1e-9 leaves room for gradients that nearly cancel.
    """
    (two, my_records), (one, their_records) = (outcome(runs / str(processes) / name) for processes in (2, 1))
    assert two.keys() == one.keys()
    for key, value in one.items():
        rate = RATE * (TranslationVAE.CODES_RATE if ".codes." in key else 1.0)
        assert value.dtype == torch.float64
        assert (two[key] - value).abs().max() < 1e-9 * rate * STEPS, key
    for mine, theirs in zip(my_records, their_records, strict=True):
        assert mine.keys() == theirs.keys() and mine.pop("phase") == theirs.pop("phase")
        # These are means over the whole batch, of positive numbers. Each process rounds its mean to float32, their sum
        # is rounded again, and so is the mean of one process: 3 x 2^-24 in all.
        assert mine == pytest.approx(theirs, rel=3 * 2**-24)
    summary = json.loads((runs / "2" / name / "summary.json").read_text())
    assert summary["nothing"] == 1.0


def test_the_first_process_calls_the_callbacks(runs: Path) -> None:
    assert {(runs / "2" / name / "callers").read_text() for name in _NAMES} == {"0"}


def test_a_single_process_exchanges_nothing() -> None:
    with joined("cpu") as processes:
        assert processes == Processes(0, 1, 0)
        assert processes.first
        value = torch.ones(3)
        processes.average([value])
        assert torch.equal(value, torch.ones(3))
        assert processes.any(True, torch.device("cpu")) and not processes.any(False, torch.device("cpu"))
        assert processes.text_of_first("here") == "here"


def test_the_wait_for_another_process_ends_and_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_START", timedelta(seconds=0.2))
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # torchrun's
    variables = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    for name, value in {**variables, "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ExchangeError, match=r"failed in process 0: .*process 1\b.*; if another process has ended"),
        joined("cpu"),
    ):
        pass


def test_only_errors_of_the_exchange_are_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(parallel, "_join", lambda _: None)
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), joined("cpu"):
        raise RuntimeError("shapes differ")
    with pytest.raises(torch.OutOfMemoryError), joined("cpu"):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    place = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553]"
    with pytest.raises(ExchangeError, match=r"in process 0: Connection closed by peer \[::1\]:9; if"), joined("cpu"):
        raise RuntimeError(
            f"{place} Connection closed by peer [::1]:9. This is typically caused by a remote worker ..."
        )


def test_incomplete_variables_of_torchrun_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(ConfigError, match=r"WORLD_SIZE is 2, but RANK, .*is not set; start with torchrun"),
        joined("cpu"),
    ):
        pass

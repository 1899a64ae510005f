"""The command line, end to end: what it prints and returns, and that a mistake is reported in one line."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sivae
from sivae.cli.main import VERBS, main
from sivae.cli.train import help_of
from sivae.machine import cpu_model, multiplies_bfloat16
from sivae.settings.presets import PRESETS
from sivae.settings.run import RunConfig, placed_settings
from tests.cli.running import run

_TINY = "--steps 12 --hidden 8 --layers 1 --batch-size 16 --threads 1 --log-every 4 --checkpoint-every 8"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    main(["train", "--log", "none", "rings", "--out", str(folder), "--seed", "5", "--quiet", *_TINY.split()])
    return folder


def test_help_and_version_are_there_at_once() -> None:
    script = "import sys\nfrom sivae.cli.main import main\nmain([sys.argv[1]])\nassert 'torch' not in sys.modules"
    for word in ("--help", "--version"):
        process = subprocess.run([sys.executable, "-c", script, word], capture_output=True, text=True, check=True)
        assert "sivae" in process.stdout
        assert process.stderr == ""


def test_without_a_verb_the_help_is_printed_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    _, help_text, _ = run(capsys, "--help")
    assert run(capsys) == (2, "", help_text)


def test_help_teaches_by_examples(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "sivae train digits" in out
    for verb in VERBS:
        assert f"  {verb}" in out
        code, out_verb, _ = run(capsys, verb, "--help")
        assert code == 0
        assert "examples:" in out_verb
    _, out, _ = run(capsys, "train", "--help")
    for word in (*PRESETS, "--resume", "--checkpoint-every", "--objective", "sivae train PRESET --help"):
        assert word in out
    assert run(capsys, "--version")[1] == f"sivae {sivae.__version__}\n"


@pytest.mark.parametrize(
    ("preset", "kinds"), [("digits", "mse,l1,gaussian,bce"), ("rings", "mse,l1,gaussian"), ("points-shapes", "chamfer")]
)
def test_the_help_of_a_preset_lists_the_errors_that_it_can_have(preset: str, kinds: str) -> None:
    assert f"--kind {{{kinds}}} " in " ".join(help_of(preset).split())


def test_the_help_of_a_preset_shows_its_options_with_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    """Only those that have an effect, with the values of the preset and the chosen objective."""

    def options_of(*words: str) -> dict[str, str]:
        code, out, _ = run(capsys, "train", *words, "--help")
        assert code == 0
        options = re.split(r"\n  (?=--)", out.split("\n\nexamples:")[0])
        return {option.split()[0]: " ".join(option.split()) for option in options[1:]}

    cifar, points = options_of("cifar10"), options_of("8gaussians")
    assert "(default: 256)" in cifar["--beta-neg"] and "(default: 0.9)" in points["--beta-neg"]
    assert "(default: 64 128 256)" in cifar["--widths"] and "(default: 250)" in cifar["--epochs"]
    assert {"--data", "--widths", "--resolution", "--perceptual"} <= cifar.keys()
    assert {"--hidden", "--margin", "--beta-kl-class", "--growth", "--stage-batches"}.isdisjoint(cifar)
    assert {"--data", "--widths", "--resolution", "--perceptual", "--epochs"}.isdisjoint(points)
    intro = options_of("--objective", "intro", "8gaussians")
    assert {"--margin", "--alpha"} <= intro.keys() and "--beta-neg" not in intro
    assert "(default: 1)" in intro["--beta-rec"]  # IntroVAE's own, not Soft-IntroVAE's 0.2
    grown, whole = options_of("style32"), options_of("style32", "--growth", "none")
    assert "--stage-batches" in grown and "--batch-size" not in grown
    assert "--batch-size" in whole and "--stage-batches" not in whole
    assert "lord" not in cifar["--objective"] and "lord" in options_of("translation-shapes")["--objective"]


def test_training_prints_figures_and_where_the_pictures_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = "train 8gaussians --seed 4 --beta-neg 0.8 --semantics paper --fakes prior --milestones 0.5 0.75"
    code, out, err = run(capsys, *words.split(), *_TINY.split())
    assert code == 0, err
    folder = Path("runs/8gaussians-seed4")
    for word in ("gnelbo", "official_kl", "jsd", "ms per iteration", f"{folder}/samples.png"):
        assert word in out
    assert (folder / "samples.png").exists()
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    assert "8gaussians-seed4  12/12  rec " in err
    config = RunConfig.read(folder / "config.json")
    assert (config.objective.beta_neg, config.objective.semantics) == (0.8, "paper")
    assert (config.objective.fakes, config.milestones) == (("prior",), (0.5, 0.75))


def test_evaluating_prints_the_figures_of_the_training_s_end(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    code, out, err = run(capsys, "evaluate", str(trained), "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result == {"step": 12, "seed": 5} | {key: summary[key] for key in summary["metrics"]}
    code, out, _ = run(capsys, "evaluate", str(trained))
    assert code == 0
    assert f"{summary['gnelbo']:.4g}" in out


def test_a_dry_run_prints_what_a_training_will_take_and_trains_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = f"train rings --dry-run --warmup-fraction 0.25 --out {trained} {_TINY}"
    code, out, err = run(capsys, *words.split())
    assert code == 0, err
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "dry run of rings, soft-intro, fp32 on cpu"
    assert any(re.fullmatch(r"warm-up 3 16 \S+ ms \(\S+, \S+\) \d s", line) for line in lines)
    assert any(re.fullmatch(r"soft-intro 9 16 \S+ ms \(\S+, \S+\) \d s", line) for line in lines)
    assert any(re.fullmatch(r"to the end 12 \d s", line) for line in lines)
    model = json.loads((trained / "checkpoints" / "12" / "model.json").read_text())
    networks = sivae.models.build_model(model["name"], **model["hyperparameters"])
    for name in ("encoder", "decoder"):
        count = sum(one.numel() for one in getattr(networks, name).parameters())
        assert f"{name} {count:,} parameters" in lines
    assert [line.split()[0] for line in lines[-3:]] == ["memory", "checkpoint", "folder"]
    assert "dry run  0/3  warm-up, batch 16" in err
    assert not list(tmp_path.iterdir())


def test_without_loggers_there_are_no_events(trained: Path) -> None:
    assert (trained / "metrics.jsonl").exists()
    assert not list(trained.glob("events.out.tfevents.*"))


def test_a_logger_whose_package_is_missing_is_an_error_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, _, err = run(capsys, "train", "rings", "--log", "tensorboard", "wandb")
    assert (code, err.count("\n")) == (2, 1)
    assert "log = 'wandb': the package wandb is not installed; pip install 'soft-intro-vae[wandb]' adds it, or" in err
    assert not list(tmp_path.iterdir())


def test_resuming_takes_the_run_s_own_settings(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "train", "--resume", str(trained), "--checkpoint-every", "3")
    assert code == 0
    assert err.splitlines() == [
        f"{trained} is finished; nothing is left to train; --steps with more than 12 trains it for longer",
        f"sivae: next: sivae evaluate {trained} --seed 1",
    ]
    assert str(trained / "samples.png") in out


def test_a_run_that_was_moved_is_shown_where_it_is(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(trained, folder)
    code, out, _ = run(capsys, "train", "--resume", str(folder))
    assert code == 0
    assert str(folder / "samples.png") in out
    assert str(trained) not in out


def test_presets_shows_the_settings_and_their_source(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "presets")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    for name, preset in PRESETS.items():
        assert preset.source in lines[name]
        values = [preset.config.value(key) for key in ("beta_rec", "beta_kl", "beta_neg")]
        assert ", ".join("auto" if value == "auto" else f"{value:g}" for value in values) in lines[name]
    facts = json.loads(run(capsys, "presets", "--json")[1])
    assert facts["cifar10"]["objective"] == PRESETS["cifar10"].config.objective.to_dict()
    assert (facts["cifar10"]["epochs"], facts["cifar10"]["batch_size"]) == (250.0, 32)


def test_info_needs_no_training() -> None:
    script = (
        "import sys\nfrom sivae.cli.main import main\nmain(['info'])\n"
        "assert not [name for name in sys.modules if name.startswith(('sivae.training', 'sivae.evaluation'))]"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("words", ["info", "--help", "train --help"])
def test_a_reader_that_has_seen_enough_is_no_error(words: str) -> None:
    command = [sys.executable, "-m", "sivae", *words.split()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (141, "")


def test_info_says_what_is_there_and_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info")
    assert code == 0
    for word in ("torch", "python", "threads", "reference", "native", "available"):
        assert word in out
    facts = json.loads(run(capsys, "info", "--json")[1])
    assert facts["ops"]["reference"]["cpu"] is None
    if facts["ops"]["native"]["cpu"] is None:
        assert set(facts["native"]) == {"compiler", "instructions", "CUDA kernels"}
    else:
        assert facts["native"] is None
    assert facts["versions"]["sivae"] == sivae.__version__
    # Installed under its own name: `sivae` belongs to another project on the package index.
    assert facts["distribution"].startswith(("soft-intro-vae ", "none: the source tree "))
    assert facts["devices"]["cpu"] == cpu_model()
    has = facts["multiplies_bfloat16"]["cpu"]
    assert has is multiplies_bfloat16(torch.device("cpu"))  # decides --precision auto
    assert f"bfloat16 cpu: {'' if has else 'not '}multiplied in hardware" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", "'trian' is not a verb; did you mean train? see sivae --help"),
        (
            "train",
            "name a preset (8gaussians, 2spirals, checkerboard, rings, 25gaussians, 8gaussians-quick, cifar10, ",
        ),
        ("train 8gaussians --beta-neg often", "--beta-neg: 'often' is not a number, and not auto"),
        ("train 8gaussians --init-from=", "--init-from is empty; name a file or a folder"),
        ("train 8gaussians --neg-push 1", "neg_push: it has an effect only with beta_neg auto; leave it out"),
        ("train 8gausians", "there is no preset '8gausians'; did you mean 8gaussians?"),
        (
            "train rings --stepz 5",
            "unknown: --stepz 5; did you mean --steps? see sivae train --help",
        ),
        ("train rings extra --hiden=3", "unknown: extra --hiden=3; did you mean --hidden? see sivae train --help"),
        ("info more", "one argument too many: more; expected options only; see sivae info --help"),
        (
            "train mnist digits.zip",
            "one argument too many: digits.zip; expected PRESET; data is named by --data PATH",
        ),
        (
            "train 8gaussians --target-decoder-every 0",
            "bootstrap (--target-decoder-every) = 0.0: it must be more than 0",
        ),
        ("train rings --fakes prior --fakes reconstruction", "--fakes is given twice; see sivae train --help"),
        ("train --fakes prior rings --steps 0", "steps = 0: it must be 1 or more"),
        ("train --milestones 0.5 rings --steps 0", "steps = 0: it must be 1 or more"),
        ("train rings --steps 1.5", "--steps: '1.5' is not a whole number; see sivae train --help"),
        ("train rings --steps", "--steps: expected one argument"),
        ("train rings --steps 0", "steps = 0: it must be 1 or more"),
        ("train rings --objective gan", "objective = 'gan': expected one of soft-intro, intro, vae"),
        ("train rings --beta-neg much", "--beta-neg: 'much' is not a number"),
        (
            "train rings --objective vae --beta-neg 1",
            "beta_neg = 1.0: it has no effect with the objective 'vae'",
        ),
        ("train rings --fakes prior other", 'fakes = "other": expected one of prior, reconstruction'),
        ("train rings --device abacus", "device = 'abacus': sivae computes on cpu or cuda"),
        ("train rings --ops fastest", "ops = 'fastest': expected one of"),
        ("train cifar10 --dry-run", "the preset cifar10 needs images; name them by --data PATH"),
        ("train rings --dry-run --device abacus", "device = 'abacus': sivae computes on cpu or cuda"),
        ("train rings --log wand", "--log: 'wand' is no logger; expected some of tensorboard, wandb, mlflow, or none"),
        ("train rings --log none wandb", "--log none wandb: none goes with no other; leave it out, or the others"),
        ("train --log tensorboard rings --steps 0", "steps = 0: it must be 1 or more"),
        ("train rings --log", "--log is empty; name some of tensorboard, wandb, mlflow, or none"),
        ("train --resume nowhere", "nowhere: there is no such folder; name the folder of a run"),
        ("train digits --kind BCE", 'kind = "BCE": expected one of mse, l1, gaussian, bce\n'),
        ("train rings --kind bce", 'kind = "bce": expected one of mse, l1'),
        ("train cifar10", "the preset cifar10 needs images; name them by --data PATH"),
        ("train cifar10 --data nowhere", "nowhere"),
        ("train rings --epochs 3", "epochs = 3.0: points of a density have none; give steps"),
        ("train digits --epochs 3 --steps 9", "steps = 9: epochs = 3.0 are given too, expected one of the two; leave"),
        ("train digits --data nowhere", "path (--data) = "),
        ("train rings --beta-rec 0 --beta-kl 0", "beta_rec = 0 and beta_kl = 0: nothing would be learned"),
        ("sample nowhere", "nowhere: there is no such folder; name a model's, a checkpoint's or a run's"),
        ("import-checkpoint nowhere --out here", "nowhere: No such file or directory; check the path"),
        ("train rings --norm batch", "it has no effect with the model 'mlp'"),
        ("train digits --compile yes", "--compile: 'yes' is neither on nor off"),
        ("train digits --cuda-graph on --device cpu", "cuda_graph = 'on': CUDA graphs need a GPU"),
        ("evaluate", "name the run's folder, as sivae train printed it"),
        ("evaluate --seed 1 --json", "name the run's folder, as sivae train printed it"),
        ("evaluate nowhere", "nowhere: there is no such folder; name the folder of a run"),
        ("reproduce", "name an experiment (density-2d, "),
        ("reproduce stabilty", "there is no experiment 'stabilty'; did you mean stability?"),
        ("reproduce entropy --size huge", "--size: invalid choice: 'huge'"),
        ("reproduce entropy --workers 0", "--workers: 0 is too small; expected at least 1"),
        ("reproduce entropy --data PATH", "--data has no effect on entropy; leave it out"),
        ("reproduce images --run nowhere", "nowhere: there is no such folder; name the folder of a run"),
    ],
)
def test_a_mistake_is_one_line(
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *words.split())
    assert code == 2
    assert out == ""
    assert err.startswith("sivae: ")
    assert err.count("\n") == 1
    assert message.lower() in err.lower()
    assert not list(tmp_path.iterdir())


def test_mistakes_about_folders_cost_one_line(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(trained)
    for words, message in (
        (["train", "rings", "--out", folder], f"is not empty; go on with it by --resume {folder}, or choose"),
        (["train", "rings", "--resume", folder], "a preset does not go with --resume"),
        (["train", "--resume", folder, "--dry-run"], "--dry-run does not go with --resume"),
        (["train", "--resume", folder, "--layers", "1"], "--layers does not go with --resume"),
        (["train", "--resume", folder, "--seed", "99"], "--seed does not go with --resume"),
        (["evaluate", folder, "--seed", "-1"], "--seed: -1 is not a seed; expected 0 to 2^63 - 1"),
    ):
        code, _, err = run(capsys, *words)
        assert code == 2
        assert err.count("\n") == 1
        assert message in err


def test_failures_return_1_and_debug_shows_where(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "run"
    (broken / "checkpoints" / "7").mkdir(parents=True)
    (broken / "config.json").write_bytes((trained / "config.json").read_bytes())
    code, _, err = run(capsys, "evaluate", str(broken))
    assert code == 1
    assert "Traceback" not in err
    assert "manifest.json" in err
    assert "Restore the folder from a copy" in err
    code, _, err = run(capsys, "evaluate", str(broken), "--debug")
    assert code == 1
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("sivae: no checkpoint in ")


@pytest.mark.parametrize(
    ("verb", "target", "remedy"),
    [
        ("train rings", "sivae.training.run.train", "take a smaller --batch-size, or compute each batch in parts"),
        ("prepare a b --resolution 8", "sivae.cli.prepare.run", "decode fewer images at a time (--workers 1)"),
        ("info", "sivae.machine.machine", "end other programs, or use a machine or a --device with more memory"),
    ],
)
def test_a_shortage_of_memory_is_one_line_with_a_remedy(
    verb: str, target: str, remedy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(target, lambda *_, **__: torch.empty(1 << 60, dtype=torch.uint8))
    code, _, err = run(capsys, *verb.split())
    assert code == 1
    assert err.count("\n") == 1
    assert err.startswith(f"sivae: the main memory has no room for 1152921504606846976 bytes more; {remedy}")


@pytest.mark.parametrize(
    "error", [RuntimeError("can't start new thread"), BlockingIOError(errno.EAGAIN, "can't start new process")], ids=str
)
def test_a_limit_of_processes_is_one_line_with_a_remedy(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("sivae.machine.machine", fail)
    code, _, err = run(capsys, "info")
    assert code == 1
    assert re.fullmatch(
        r"sivae: can't start new (thread|process); allow more processes and threads \(ulimit -u\), or end others\n", err
    )


def test_a_terminal_gets_a_live_bar(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    words = ["train", "8gaussians", "--out", str(tmp_path / "run"), *_TINY.split()]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(
        [sys.executable, "-m", "sivae", *words], stderr=follower, stdout=subprocess.DEVNULL, env=environment
    )
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 65536):
            shown += chunk
    except OSError:  # how Linux says that the other side is closed
        pass
    finally:
        os.close(leader)
    assert process.wait(timeout=120) == 0
    text = shown.decode()
    assert "12/12" in text
    for name in ("rec", "kl real", "kl fake", "exp-ELBO", "it/s"):
        assert name in text
    assert "\x1b[" in text


@pytest.mark.parametrize("preset", ["rings", "translation-shapes", "style32"])
def test_the_values_in_the_help_are_the_preset_s(preset: str) -> None:
    """Every number that the help shows as a default can be typed back and gives the same run."""
    out = " ".join(help_of(preset).split())
    config = PRESETS[preset].config
    numbers = [
        placed
        for placed in placed_settings(config)
        if placed.option and isinstance(placed.value, int | float) and not isinstance(placed.value, bool)
    ]
    assert numbers
    for placed in numbers:
        found = re.search(rf"--{placed.option} \S+ .*?\(default: ([^)]*)\)", out)
        assert found is not None and float(found[1]) == placed.value, placed.option

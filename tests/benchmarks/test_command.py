"""`sivae bench` and `python -m benchmarks`: what they write and print, and how they report a mistake."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sivae
from benchmarks import command, op_timing, options, run
from benchmarks.iterations import images, points, profile
from benchmarks.iterations.conv import ConvCase
from benchmarks.names import IMAGE_STEP, ITERATIONS, MODES, STEP, STYLE_STEP
from benchmarks.op_cases import OPERATIONS, Case
from benchmarks.probes import MatrixProbe
from benchmarks.timing import Efforts
from sivae.cli import bench
from tests.benchmarks import small
from tests.cli.running import run as run_sivae

ROOT = Path(command.__file__).parents[1]
TINY = [Case(OPERATIONS["exp_elbo"], (7,)), Case(OPERATIONS["reconstruction_error"], (2, 3, 4, 4))]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small shapes and little effort, whatever the options say."""
    monkeypatch.setattr(run, "cases", lambda names, **choice: [c for c in TINY if c.operation.name in names])
    little = Efforts(dataclasses.replace(small.EFFORT, rounds=4), small.EFFORT, small.EFFORT)
    for module in (op_timing, points, images):
        monkeypatch.setattr(module, "EFFORTS", little)
    monkeypatch.setattr(run, "probe_bytes", lambda device: 1 << 12)
    monkeypatch.setattr(profile, "EFFORT", small.ITERATION_EFFORT)
    monkeypatch.setattr(profile, "_CALLS", 1)
    monkeypatch.setattr(MatrixProbe, "side_on_cpu", 16)
    cases = {IMAGE_STEP: {"cpu": (small.CONV,)}, STYLE_STEP: {"cpu": (small.STYLE,)}}
    monkeypatch.setattr(command, "_IMAGE_CASES", cases)
    real, case = points.run, points.PointsCase(batch=8, hidden=8, layers=2)
    monkeypatch.setattr(points, "run", lambda effort, **keywords: real(effort, case=case, **keywords))


def rows_in(out: Path) -> list[dict]:
    (file,) = out.glob("*/*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def sivae_bench(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    return run_sivae(capsys, "bench", *words)


def test_a_run_writes_rows_and_prints_tables(tmp_path, capsys):
    before = torch.get_num_threads()
    code, out, err = sivae_bench(capsys, "--no-compile", "--threads", "1", "--out", str(tmp_path / "new"))
    assert code == 0, err
    assert torch.get_num_threads() == before
    rows = rows_in(tmp_path / "new")
    assert {row["op"] for row in rows} == {"exp_elbo", "reconstruction_error", STEP}
    assert {row["mode"] for row in rows} == {*MODES, "iteration"}
    for row in rows:
        assert row["schema"] == 1
        assert row["quick"] is False and row["threads"] == 1 and row["skipped"] is None
        assert row["seconds_q1"] <= row["seconds"] <= row["seconds_q3"]
        assert row["command"] == f"sivae bench --no-compile --threads 1 --out {tmp_path / 'new'}"
        assert row["op"] in ITERATIONS or (row["share_of_copy"] > 0 and row["rounds"] == 4)
    for word in (
        "exp_elbo",
        "2x3x4x4",
        "forward+backward",
        "x eager",
        " %",
        "± is half the distance between the quartiles",
        "plain loop",
        f"{len(rows)} rows in",
    ):
        assert word in out
    assert "backends" in err and "exp_elbo [7] float32" in err  # progress is on stderr, and only there
    assert "without torch.compile" not in err


def test_iterations_on_images_are_measured_if_named(tmp_path, capsys):
    code, out, err = sivae_bench(capsys, "--ops", IMAGE_STEP, "--threads", "1", "--out", str(tmp_path))
    assert code == 0, err
    rows = rows_in(tmp_path)
    assert [row["op"] for row in rows] == [IMAGE_STEP] * 3
    assert [row["shape"] for row in rows] == [[2, 3, 4, 4]] * 3
    assert "images of 4x4" in out and "images/s" in out and "plain loop, channels-last" in out
    code, out, err = sivae_bench(capsys, "--ops", STYLE_STEP, "--threads", "1", "--out", str(tmp_path))
    assert code == 0, err
    assert [row["shape"] for row in rows_in(tmp_path) if row["op"] == STYLE_STEP] == [[2, 3, 8, 8]] * 4
    assert "images of 8x8 with the style model" in out and "shared-forward step, native" in out
    code, out, _ = sivae_bench(capsys, "report", str(tmp_path))
    assert code == 0
    assert "images of 4x4" in next(tmp_path.rglob("report.md")).read_text()


def test_sides_choose_among_the_iterations_on_images(tmp_path, monkeypatch, capsys):
    larger = {"cpu": (small.CONV, ConvCase(2, 16, (4,), 3))}
    monkeypatch.setitem(command._IMAGE_CASES, IMAGE_STEP, larger)
    code, _, err = sivae_bench(capsys, "--ops", IMAGE_STEP, "--sides", "16", "--out", str(tmp_path))
    assert code == 0, err
    assert {tuple(row["shape"]) for row in rows_in(tmp_path)} == {(2, 3, 16, 16)}
    code, _, err = sivae_bench(capsys, "--ops", IMAGE_STEP, STYLE_STEP, "--sides", "7", "--out", str(tmp_path))
    assert (code, err) == (2, "sivae: --sides 7: image_step and style_step have 4, 8, 16\n")
    code, _, err = sivae_bench(capsys, "--ops", STYLE_STEP, "--sides", "8", "16", "--out", str(tmp_path))
    assert (code, err) == (2, "sivae: --sides 16: style_step have 8\n")
    code, _, err = sivae_bench(capsys, "--ops", "exp_elbo", "--sides", "8", "--out", str(tmp_path))
    assert code == 2 and "add --ops with one of them" in err


def test_a_quick_run_has_the_first_iteration_of_each_model(tmp_path, monkeypatch, capsys):
    larger = {"cpu": (small.CONV, ConvCase(2, 16, (4,), 3))}
    monkeypatch.setitem(command._IMAGE_CASES, IMAGE_STEP, larger)
    code, _, err = sivae_bench(capsys, "--quick", "--ops", IMAGE_STEP, "--out", str(tmp_path))
    assert code == 0, err
    assert {tuple(row["shape"]) for row in rows_in(tmp_path)} == {(2, 3, 4, 4)}


def test_a_case_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    def fails(*arguments: object, **keywords: object) -> None:
        raise RuntimeError("the driver has gone")

    monkeypatch.setattr(images, "run", fails)
    code, _, err = sivae_bench(capsys, "--no-compile", "--ops", IMAGE_STEP, "exp_elbo", "--out", str(tmp_path))
    assert code == 1
    assert "not measured: RuntimeError: the driver has gone" in err
    assert err.splitlines()[-1].startswith("sivae: failed, for the reasons above: Soft-IntroVAE iteration, 4x4")
    assert {row["op"] for row in rows_in(tmp_path)} == {"exp_elbo"}
    monkeypatch.setattr(profile, "shares_of", fails)
    assert sivae_bench(capsys, "profile", "--ops", IMAGE_STEP, "--out", str(tmp_path))[0] == 1


def test_a_variant_that_cannot_run_is_left_out_with_the_reason(tmp_path, monkeypatch, capsys):
    def fails(*arguments: object, **keywords: object) -> None:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(ConvCase, "our_step", fails)
    code, _, err = sivae_bench(capsys, "--ops", IMAGE_STEP, "--out", str(tmp_path))
    assert code == 0
    assert "without native: OutOfMemoryError: no more" in err
    rows = rows_in(tmp_path)
    assert [row["skipped"] for row in rows] == [None, None, "OutOfMemoryError: no more"]
    assert sivae_bench(capsys, "report", str(tmp_path))[0] == 0
    assert "- native: OutOfMemoryError: no more" in next(tmp_path.rglob("report.md")).read_text()


def test_a_profile_is_printed_written_and_linked_from_the_report(tmp_path, capsys):
    code, out, err = sivae_bench(capsys, "profile", "--ops", IMAGE_STEP, "--threads", "1", "--out", str(tmp_path))
    assert code == 0, err
    (page,) = tmp_path.glob("*/*-profile.md")
    assert out.splitlines()[-1] == str(page)
    text = page.read_text()
    for word in ("aten::convolution_backward", "4x4", "eager", "native", "TFLOP/s", "sivae bench profile"):
        assert word in text
    assert "the 10 that take most" in out
    assert sivae_bench(capsys, "--no-compile", "--ops", "exp_elbo", "--out", str(tmp_path))[0] == 0
    assert sivae_bench(capsys, "report", str(tmp_path))[0] == 0
    assert f"[{page.name}]({page.name})" in page.with_name("report.md").read_text()


def test_runs_add_up_and_a_report_follows(tmp_path, capsys):
    words = ["--quick", "--no-compile", "--ops", "exp_elbo", "--out", str(tmp_path)]
    counts = []
    for _ in range(2):
        assert sivae_bench(capsys, *words)[0] == 0
        counts.append(len(rows_in(tmp_path)))
    assert counts[1] == 2 * counts[0]
    rows = rows_in(tmp_path)
    assert all(row["quick"] is True and row["rounds"] == 3 for row in rows)
    assert len({row["run"] for row in rows}) == 2
    code, out, err = sivae_bench(capsys, "report", str(tmp_path))
    assert (code, err) == (0, "")
    assert [Path(line).name for line in out.splitlines()][:2] == ["report.md", "speedup.png"]
    assert all(Path(line).exists() for line in out.splitlines())


def test_stopping_keeps_the_rows_so_far(tmp_path, monkeypatch, capsys):
    def interrupted(*arguments: object, **keywords: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(points, "run", interrupted)
    code, out, err = sivae_bench(capsys, "--no-compile", "--ops", "exp_elbo", STEP, "--out", str(tmp_path))
    assert (code, out) == (130, "")
    assert f"stopped; the rows so far are in {tmp_path}" in err
    assert {row["op"] for row in rows_in(tmp_path)} == {"exp_elbo"}
    assert command.main(["--no-compile", "--ops", STEP, "--out", str(tmp_path)], "python -m benchmarks") == 130


def test_python_m_benchmarks_is_the_same_program(tmp_path, capsys):
    words = ["--quick", "--no-compile", "--ops", "exp_elbo", "--rounds", "2", "--out", str(tmp_path)]
    assert command.main(words, "python -m benchmarks") == 0
    rows = rows_in(tmp_path)
    assert rows[0]["command"].startswith("python -m benchmarks --quick")
    assert {row["rounds"] for row in rows} == {2}
    assert "exp_elbo" in capsys.readouterr().out
    assert vars(options.parse(words, "a"))["ops"] == vars(bench.parse(words))["ops"]


def test_cases_are_left_out_when_the_time_is_over(tmp_path, capsys):
    code, _, err = sivae_bench(capsys, "--no-compile", "--minutes", "1e-9", "--out", str(tmp_path))
    assert code == 0
    assert "exp_elbo [7] float32: not measured; --minutes 1e-09 are over" in err
    assert "a training iteration: not measured" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--ops exp_elb", "'exp_elb' is not measured; did you mean exp_elbo? there are loss,"),
        ("--ops nothing", "there are loss, exp_elbo, reconstruction_error,"),
        ("--ops", "--ops: expected at least one argument"),
        ("--dtype int8", "invalid choice: 'int8'"),
        ("--device abacus", "device = 'abacus': sivae computes on cpu or cuda"),
        ("--device cuda:99", "device = 'cuda:99' is not there ("),
        ("--threads 0", "--threads: 0 is too small; expected at least 1"),
        ("--minutes 0", "--minutes: '0' is not a number above 0"),
        ("--rounds few", "'few' is not a whole number"),
        ("fast", "one argument too many: fast; expected options only; see"),
        ("report", "name the folder of results"),
        ("report nowhere", "nowhere: there is no such folder"),
        ("report .", "it holds no results (*.jsonl)"),
        ("--out taken", "out = taken: it is a file, or inside one; name a folder"),
    ],
)
def test_a_mistake_is_named_in_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("mine")
    code, out, err = sivae_bench(capsys, *words.split())
    assert (code, out) == (2, "")
    assert err.startswith("sivae: ") and err.count("\n") == 1
    assert message in err
    assert command.main(words.split(), "python -m benchmarks") == 2
    assert message in capsys.readouterr().err
    assert Path("taken").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_help_teaches_by_examples(capsys):
    code, out, _ = sivae_bench(capsys, "--help")
    assert code == 0
    for word in ("examples:", "sivae bench --quick", "--no-compile", "reparameterize_kl", "report"):
        assert word in out


def test_help_appears_without_torch():
    script = (
        "import sys; from benchmarks.options import parse\n"
        "try:\n    parse([*sys.argv[1:], '--help'], 'bench')\n"
        "except SystemExit:\n    assert 'torch' not in sys.modules"
    )
    for words in ([], ["profile"], ["report"]):
        subprocess.run([sys.executable, "-c", script, *words], cwd=ROOT, capture_output=True, check=True)


def test_without_a_checkout_the_remedy_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sivae, "__file__", str(tmp_path / "site-packages" / "sivae" / "__init__.py"))
    code, _, err = sivae_bench(capsys, "--quick")
    assert code == 2
    assert "run it from a checkout: git clone" in err


def test_nothing_but_torch_and_the_standard_library_is_needed(tmp_path):
    """A machine with a GPU may lack the rest; rich and matplotlib are imported when they are used."""
    script = (
        "import sys; sys.modules.update({name: None for name in "
        "('rich', 'numpy', 'scipy', 'sklearn', 'matplotlib', 'PIL', 'safetensors', 'tensorboard')}); "
        "from benchmarks.command import main; out = sys.argv[1]; "
        "words = ['--quick', '--no-compile', '--ops', 'exp_elbo', '--rounds', '1', '--out', out]; "
        "sys.exit(main(words, 'bench') or main(['report', out], 'bench'))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "exp_elbo" in done.stdout and "report.md" in done.stdout

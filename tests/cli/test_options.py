"""The options of every verb: their names do not change, and `--help` explains each of them at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sivae.cli.main import VERBS, parser_of

# Scripts depend on these names; add new ones, and remove none.
NAMES = {
    "presets": "--json",
    "evaluate": "--seed --device --data --crop --skip-damaged --against --against-count --save-features --fid-weights "
    "--fid-count --lpips-weights --json",
    "prepare": "--resolution --crop --channels --split --workers --skip-damaged --no-levels --quiet",
    "sample": "--count --columns --seed --class --truncation --cutoff --out --each --npz --raw-weights --device",
    "reconstruct": "--crop --data --split --count --seed --every-lod --class --out --each --raw-weights --device",
    "interpolate": "--crop --seeds --steps --linear --class --out --each --gif --frames --raw-weights --device",
    "mix": "--crop --rows --columns --seed --first --truncation --cutoff --out --raw-weights --device",
    "translate": "--crop --content --class --data --split --count --seed --out --separate --raw-weights --device",
    "reproduce": "--list --size --out --seeds --steps --data --against --run --vgg --lpips --device --threads "
    "--workers --quiet",
    "ood": "--in --against --in-split --against-split --out-split --by --k --sigma --beta-rec --beta-kl --seed --count "
    "--skip-damaged --out --out-dir --calibrate --quantile --score --threshold --csv --crop --raw-weights --device",
    "encode": "--split --out --class --crop --raw-weights --device",
    "export": "--to --noise --scaling-factor --raw-weights --out",
    "fit-prior": "--class --components --count --crop --data --device --out --seed --split",
    "import-checkpoint": "--out --as-trained",
    "info": "--json",
}


def test_every_verb_is_here_or_makes_its_options_from_the_command_line() -> None:
    assert set(NAMES) | {"train", "bench"} == set(VERBS)


@pytest.mark.parametrize("verb", NAMES)
def test_names_stay(verb: str) -> None:
    names = [option for action in parser_of(verb).actions() for option in action.option_strings]
    assert sorted(names) == sorted(["-h", "--help", *NAMES[verb].split()])


@pytest.mark.parametrize("verb", NAMES)
def test_help_explains_every_option_in_a_sentence_and_ends_with_examples(verb: str) -> None:
    parser = parser_of(verb)
    for action in parser.actions():
        assert action.help and action.help[0].isupper() and ("." in action.help or ":" in action.help), action.dest
    assert f"examples:\n  sivae {verb}" in parser.format_help()


@pytest.mark.parametrize("verb", NAMES)
@pytest.mark.parametrize("columns", [80, 120])
def test_help_fits_the_terminal(verb: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines, _ = parser_of(verb).format_help().split("\nexamples:\n")
    assert max(map(len, lines.splitlines())) < columns


def test_help_needs_neither_torch_nor_what_draws_pictures() -> None:
    script = (
        "import sys; from sivae.cli.main import parser_of\n"
        "for verb in sys.argv[1:]: parser_of(verb).format_help()\n"
        "print(*sorted({'torch', 'numpy', 'PIL', 'matplotlib', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script, *NAMES], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

"""The `sivae` command: finds the verb, parses its options, runs it, and turns errors into one line and an exit code.

A verb is a module of this package with `options(parser)`, which adds its options, and `run(given)`, which does the
work. A verb whose options depend on the command line has `parse(words)`, which is called instead. `MEMORY_REMEDY` says
what to do when memory runs out, where the verb's options help, and `STOP_REMEDY` what to do after Ctrl-C, where the
verb can go on.

Exit codes: 0 done; 1 failed; 2 wrong usage; 130 and 143 stopped by SIGINT and SIGTERM; 141 the reader of the output
has closed it. torch is imported by the verb that needs it, so that help appears at once.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import sivae

if TYPE_CHECKING:
    from sivae.cli.parsing import Parser


class Group(NamedTuple):
    """Verbs that belong together: what each does, and what people do after them."""

    verbs: dict[str, str]
    then: str = ""


GROUPS = {
    "prepare data and models": Group(
        {
            "prepare": "decode, resize and pack a set of images once, for fast training",
            "import-checkpoint": "convert a checkpoint of the authors' code into a model folder",
        },
        "sivae train PRESET --data DEST, or sivae sample MODEL",
    ),
    "train": Group(
        {
            "presets": "list what can be trained, with the settings and their source",
            "train": "train a model on images, point clouds or points in the plane, or resume a run",
            "evaluate": "compute the metrics of a trained model",
            "fit-prior": "fit a mixture of Gaussians to a trained model's latents, as its prior",
        },
        "sivae sample RUN, or sivae reconstruct RUN --data PATH",
    ),
    "use a trained model": Group(
        {
            "sample": "draw images from the prior",
            "reconstruct": "show images beside their reconstructions",
            "interpolate": "go from one image, or one sample, to another",
            "mix": "combine the coarse styles of some images with the fine styles of others",
            "translate": "combine the content of some images with the class of others",
            "encode": "write the latents of a set of images or point clouds to a folder",
            "export": "write a model's networks as ONNX, torch.export or weights, for other programs",
            "ood": "detect images unlike the training data, by their likelihood",
        }
    ),
    "measure": Group(
        {
            "reproduce": "run an experiment of the paper and write a page of results",
            "bench": "time the fused ops and the training step against plain PyTorch",
            "info": "show versions, devices and the backends of the fused ops",
        }
    ),
}
VERBS = {verb: words for group in GROUPS.values() for verb, words in group.verbs.items()}


def _help() -> str:
    lines = ["usage: sivae [--version] [--help] VERB ...", "", "Trains Soft-IntroVAEs, fast."]
    width = max(map(len, VERBS)) + 2
    for title, group in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {verb:<{width}}{words}" for verb, words in group.verbs.items())]
        if group.then:
            lines.append(f"  {'then:':<{width}}{group.then}")
    return "\n".join(lines) + f"\n\n{_EXAMPLES}"


_EXAMPLES = """\
examples:
  sivae train digits                       small images that need no download
  sivae train cifar10 --data PATH          the published model with the published settings
  sivae train --resume runs/digits-seed0   continue a run that was stopped
  sivae evaluate runs/digits-seed0
  sivae sample runs/digits-seed0
  sivae prepare photos.zip photos128 --resolution 128 --crop center

sivae VERB --help lists the options of a verb. With --debug, any verb shows where an error happened.
"""

_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path; a part of it is a file",
    errno.EISDIR: "name a file in it",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "free some space, then run the command again",
    errno.EDQUOT: "free some space, then run the command again",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.EAGAIN: "allow more processes and threads (ulimit -u), or end others",
}
_WRONG_PATHS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
_ANY_REMEDY = "check the path, its permissions and the space left"
_STOP_REMEDY = "run the command again to do all of it"
_MEMORY_REMEDY = "end other programs, or use a machine or a --device with more memory"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exit the process with a code above 0 if it fails.

    Args:
        arguments: without the program's name; None: those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # print also on a terminal without Unicode
    try:
        try:
            _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of the output has closed it. What is still buffered must not fail once more at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _run(given: list[str]) -> None:
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    if not given:
        print(_help(), end="", file=sys.stderr)
        sys.exit(2)
    verb = given[0]
    if verb in ("--help", "-h"):
        print(_help(), end="")
        return
    if verb == "--version":
        print(f"sivae {sivae.__version__}")
        return
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(VERBS)};"
        _fail(f"{verb!r} is not a verb; {hint} see sivae --help", 2)
    module = None
    try:
        module = _module(verb)
        parse = module.parse if hasattr(module, "parse") else parser_of(verb).parse
        module.run(parse(given[1:]))
    except BrokenPipeError:
        raise
    except Exception as error:
        from sivae.errors import SivaeError
        from sivae.machine import memory_shortage

        if debug:
            traceback.print_exc()
        if isinstance(error, SivaeError):
            _fail(str(error), error.exit_code)
        if isinstance(error, ModuleNotFoundError):
            _fail(f"{error}; install it, for example by reinstalling sivae with its dependencies", 1)
        if shortage := memory_shortage(error):
            _fail(f"{shortage}; {getattr(module, 'MEMORY_REMEDY', _MEMORY_REMEDY)}", 1)
        if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
            error = OSError(errno.EAGAIN, str(error))
        if isinstance(error, OSError):
            where = f"{error.filename}: " if error.filename else ""
            remedy = _REMEDIES.get(error.errno or 0, _ANY_REMEDY)
            _fail(f"{where}{error.strerror or error}; {remedy}", 2 if error.errno in _WRONG_PATHS else 1)
        if debug:
            sys.exit(1)
        raise
    except KeyboardInterrupt:
        if debug:
            traceback.print_exc()
        _fail(f"stopped; {getattr(module, 'STOP_REMEDY', _STOP_REMEDY)}", 130)


def parser_of(verb: str) -> Parser:
    """The parser of a verb that has `options`."""
    from sivae.cli.parsing import Parser

    parser = Parser(f"sivae {verb}")
    _module(verb).options(parser)
    return parser


def _module(verb: str) -> Any:
    return importlib.import_module(f"sivae.cli.{verb.replace('-', '_')}")


def _fail(message: str, code: int) -> NoReturn:
    print(f"sivae: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)

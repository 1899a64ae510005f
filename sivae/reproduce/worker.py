"""Run one training in a process of its own, for :mod:`sivae.reproduce.trainings`.

The task comes as one line of JSON on the standard input: `folder` of the run and its `config`. The input then stays
open: when it ends, because the parent closes it or has ended itself, the training finishes its iteration, writes a
checkpoint and exits. So no training survives its parent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

INTERRUPTED = 3  # exit code
DIVERGED = "diverged.json"  # in the folder of a run that was given up


def main(train: Callable[..., Any] | None = None) -> None:
    """Train, and exit with 0 at the end or after divergence, with `INTERRUPTED` if the training can resume, else 1.

    Args:
        train: called as :func:`sivae.training.train`, with `resume` and `progress`; None: that function.
    """
    task = json.loads(_line(0))
    threading.Thread(target=_stop_at_end_of, args=(0,), daemon=True).start()

    from sivae.errors import DivergenceError, RunInterrupted, SivaeError
    from sivae.files import write_json
    from sivae.machine import memory_shortage
    from sivae.settings.run import RunConfig
    from sivae.training.folder import CONFIG
    from sivae.training.process_settings import keep_freed_memory
    from sivae.training.run import train as of_package

    keep_freed_memory()
    folder = Path(task["folder"])
    try:
        config = RunConfig.from_json(json.dumps(task["config"]))
        (train or of_package)(config, folder, resume=(folder / CONFIG).exists(), progress=False)
    except DivergenceError as error:
        write_json(folder / DIVERGED, {"step": error.step, "message": str(error)})
    except RunInterrupted:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if shortage := memory_shortage(error):
            sys.exit(f"sivae: {shortage}; train fewer at a time with --workers")
        if isinstance(error, (SivaeError, OSError)):
            sys.exit(f"sivae: {error}")
        raise


def _line(descriptor: int) -> bytes:
    # Not through sys.stdin: a thread that waits in its buffer would keep the interpreter from ending.
    line = bytearray()
    while not line.endswith(b"\n") and (piece := os.read(descriptor, 1)):
        line += piece
    return bytes(line)


def _stop_at_end_of(descriptor: int) -> None:
    while os.read(descriptor, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()

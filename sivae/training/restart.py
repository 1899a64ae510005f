"""Find the run that `torchrun --max-restarts` started before, so that the same training goes on from it.

After a failure torchrun starts the same command again. A run that it started holds the file `launch.json`: the torchrun
process by its number and start, the settings as they were asked for, and the position among the runs that one process
starts. A run whose file has this content, to the byte, is the one to go on with. The run id of torchrun alone would not
do: it is "none" by default, and can be used again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from pathlib import Path

from sivae import files
from sivae.settings.run import RunConfig
from sivae.training.folder import CONFIG, LAUNCH, default_folder, read_summary

_runs = itertools.count()  # that this process has started


def launch_record(config: RunConfig) -> bytes | None:
    """Return the content of `launch.json` for the next run of this process; None if torchrun did not start it."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    if run_id is None:
        return None
    content = {
        "run_id": run_id,
        "torchrun": _torchrun(),
        "run": next(_runs),
        "settings": hashlib.sha256(config.to_json().encode()).hexdigest(),
    }
    return json.dumps(content, indent=2).encode() + b"\n"


def started_before(config: RunConfig, out: str | os.PathLike[str] | None, launch: bytes) -> Path | None:
    """Find the run that an earlier start of this command began; None if there is none.

    Args:
        config: its settings.
        out: the folder that was asked for; None: it has the default name, or one with a number.
        launch: see :func:`launch_record`.
    """
    base = default_folder(config)
    folders = [Path(out)] if out is not None else sorted(base.parent.glob(f"{base.name}*"))
    again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    for folder in folders:
        ours = _content(folder / LAUNCH, len(launch)) == launch and (folder / CONFIG).exists()
        # A finished run is an earlier start's only after a failure: a script may also ask for the same run twice.
        if ours and (again or read_summary(folder) is None):
            return folder
    return None


def record_launch(folder: Path, launch: bytes) -> None:
    """Write `launch.json` into the folder of a new run."""
    files.write_bytes(folder / LAUNCH, launch)


def _content(path: Path, size: int) -> bytes:
    """The first bytes of a file, one more than `size`; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(size + 1)
    except OSError:
        return b""


def _torchrun() -> list[str]:
    """Name the process of torchrun: this start of the system, its number, and its start in ticks of the clock.

    It is the nearest ancestor that does not have the variables itself: the command may be in a script.
    """
    process = os.getppid()
    try:
        while b"TORCHELASTIC_RUN_ID=" in Path(f"/proc/{process}/environ").read_bytes():
            process = int(_stat(process)[1])
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [boot, str(process), _stat(process)[19]]
    except (OSError, ValueError, IndexError):
        return ["", str(process), ""]


def _stat(process: int) -> list[str]:
    """The fields of proc(5)'s `stat` after the name, which may contain anything; the first is the state."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()

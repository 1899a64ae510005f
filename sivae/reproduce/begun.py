"""Keep the settings that a folder of trainings was begun with, and refuse to go on with others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sivae import files
from sivae.errors import RunFolderError
from sivae.fields import show

SETTINGS = "settings.json"
OTHER = "choose another folder with --out"


def begin(folder: Path, content: Mapping[str, Any], what: str) -> bool:
    """Make a folder and write its settings.

    Args:
        folder: the folder.
        content: of :data:`SETTINGS`.
        what: the folder holds, for a message: "reproduction".

    Returns:
        Whether the folder is new; False where it has settings already, which stay.

    Raises:
        RunFolderError: it is a file, or holds something else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise RunFolderError(f"{folder}: a file stands there; {OTHER}") from None
    if (folder / SETTINGS).exists():
        return False
    if any(not files.is_temporary(path) for path in folder.iterdir()):
        raise RunFolderError(f"{folder} is not empty and holds no {what}; {OTHER}")
    files.write_json(folder / SETTINGS, content)
    return True


def check_same(
    folder: Path, stored: Mapping[str, Any], mine: Mapping[str, Any], names: Mapping[str, str] | None = None
) -> None:
    """Compare the settings of a call with those that the folder was begun with.

    Args:
        folder: for the message.
        stored, mine: settings by the names of their options, in types of JSON.
        names: of settings whose option has another name.

    Raises:
        RunFolderError: a setting differs.
    """

    def told(key: str, value: Any) -> str:
        name = (names or {}).get(key, f"--{key.replace('_', '-')}")
        return f"no {name}" if value is None else f"{name} {value if isinstance(value, str) else show(value)}"

    for key, value in mine.items():
        if (came := stored.get(key)) != value:
            raise RunFolderError(
                f"{folder} was begun with {told(key, came)}, and this call has {told(key, value)}; go on with the "
                f"settings it was begun with, or {OTHER}"
            )

"""The folder of ``rlgrad agent``: whether it is fit for the agents that are to come, and its result.

DIR/result.json      settings, returns of the test, versions
DIR/learning.svg     learning curves
DIR/seed-0/, ...     the agents
"""

import json
import shutil
from pathlib import Path
from typing import Any

from rlgrad.files import check_writable, replacing

RESULT, FIGURE = "result.json", "learning.svg"


def prepare(out: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
    """Make the folder ready for agents of these settings, or say why it is not.

    Raises:
        FileExistsError: something else is there, or agents of other settings that are not to be overwritten.
        OSError: no file can be written there.
    """
    from rlgrad.model.folder import clear_remains

    path = out / RESULT
    check_writable(path)
    for left in out.glob(".seed-*.*"):  # by a save that was killed
        clear_remains(out / left.name.split(".")[1])
    before = _settings_in(path) if path.exists() else None
    if before is None and any(out.iterdir()):
        raise FileExistsError(f"needed a new folder, or one of rlgrad agent, got {out} with other files; name another")
    if overwrite:
        _remove_agents(out)
    elif before is not None and before != settings:
        different = ", ".join(
            f"{name} {settings.get(name)!r} instead of {before.get(name)!r}"
            for name in {**before, **settings}
            if settings.get(name) != before.get(name)
        )
        raise FileExistsError(
            f"needed the settings of the agents in {out}, got {different}; name another folder, or pass --overwrite"
        )
    if overwrite or before is None:
        write_result(out, settings, [], None)


def _settings_in(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["task"] != "agent":
            raise ValueError("of something else")
        settings: dict[str, Any] = dict(content["settings"])
        return settings
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise FileExistsError(f"needed a result of rlgrad agent, got {path} ({error}); name another folder") from error


def _remove_agents(out: Path) -> None:
    from rlgrad.model import check_destination

    folders = list(out.glob("seed-*"))
    for folder in folders:
        check_destination(folder, overwrite=True)  # other files than an agent's are not for us to remove
    for folder in folders:
        shutil.rmtree(folder)
    (out / FIGURE).unlink(missing_ok=True)


def write_result(out: Path, settings: dict[str, Any], runs: list[dict[str, Any]], threshold: float | None) -> None:
    """Write down what the agents were made with and how they did, whole or not at all."""
    import gymnasium as gym

    from rlgrad.study.records import versions

    content = {
        "task": "agent",
        "settings": settings,
        "reward_threshold": threshold,
        "runs": runs,
        "versions": {**versions(), "gymnasium": gym.__version__},
    }
    with replacing(out / RESULT) as file:
        file.write((json.dumps(content, indent=1, allow_nan=False) + "\n").encode())

"""Named points at which a test can have this process die, as `kill -9` would. Nothing unless `FAULTS` is set.

`FAULTS=relay.acknowledged:3` kills the process the third time it passes that point; several are separated by commas.
With `FAULTS_DONE_DIR` a fault strikes once, also when the process is started again with the same environment.
"""

import os
import signal
from collections import Counter
from pathlib import Path

_wanted: dict[str, int] = {}
_passed: Counter[str] = Counter()
for _one in filter(None, os.environ.get("FAULTS", "").split(",")):
    _name, _, _nth = _one.partition(":")
    _wanted[_name] = int(_nth or 1)


def point(name: str) -> None:
    """A place where dying matters: between two things that must agree."""
    if not _wanted or name not in _wanted:
        return
    _passed[name] += 1
    if _passed[name] == _wanted[name] and _first_time(name):
        os.kill(os.getpid(), signal.SIGKILL)


def _first_time(name: str) -> bool:
    folder = os.environ.get("FAULTS_DONE_DIR")
    if folder is None:
        return True
    try:
        (Path(folder) / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True

"""A home and a name for a process that has none, as in a container that runs under any number.

Ray, MLflow, torch and matplotlib look for both as soon as they are imported, and end with a traceback without.
"""

import getpass
import os
import tempfile
from pathlib import Path


def settle() -> None:
    """Say in the environment, for this process and those that it starts, where home is and who is there.

    What is set already stays as it is. A home that cannot be written to stays home, since credentials may be in it.
    """
    home = os.path.expanduser("~")  # stays as it is where neither HOME nor the list of users knows better
    if not os.path.isdir(home):
        os.environ["HOME"] = _own_folder()
    elif not os.access(home, os.W_OK):
        os.environ.setdefault("MPLCONFIGDIR", _own_folder())  # else matplotlib speaks of it in every process
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"uid-{os.getuid()}"


def _own_folder() -> str:
    """A temporary folder that is the same every time, and that nobody else can look into."""
    folder = Path(tempfile.gettempdir(), f"ail-home-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    theirs = folder.lstat().st_uid != os.getuid() or folder.is_symlink()
    return tempfile.mkdtemp(prefix="ail-home-") if theirs else str(folder)

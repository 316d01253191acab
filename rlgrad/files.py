"""Files that are written whole or not at all."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the name and the place of any older one when the block has ended well.

    It is written under another name in the same folder, which is made if need be, and brought to disk before it is
    renamed. Where the block fails nothing is left of it, and an older file stays as it was.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "new" / "notes.txt") as file:
        ...         _ = file.write(b"whole")
        ...     [path.name for path in Path(folder).rglob("*.*")]
        ['notes.txt']
    """
    path = Path(path)
    check_writable(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _to_disk(path.parent)


def check_writable(path: str | Path) -> None:
    """Make the folder of a file that is to be written, and try to write there, before any work is done for it.

    Raises:
        OSError: the folder cannot be made or written to, or the path is a folder itself.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"needed a file to write, got the folder {path}; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except FileExistsError as error:
        message = f"needed a folder to write {path.name} in, got the file {path.parent}; name another"
        raise NotADirectoryError(message) from error
    except OSError as error:
        message = f"needed a folder to write {path.name} in, got {path.parent} ({error.strerror}); name another"
        raise OSError(message) from error


def _to_disk(folder: Path) -> None:
    """Bring a folder's names to disk, where the system knows how."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

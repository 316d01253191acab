"""Files that are written whole or not at all."""

import os
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
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.chmod(part, 0o644)  # mkstemp's is private
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise

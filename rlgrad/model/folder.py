"""A model on disk: a folder of data that is written whole or not at all, with sums that are verified on reading."""

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import torch
from torch import nn

SUMS = "SHA256SUMS"
_NAMES = {"model.json", "preprocessing.skops", "weights.safetensors", "agent.json", "state.safetensors", SUMS}


def check_destination(folder: str | Path, *, overwrite: bool) -> None:
    """Find out before training whether the model can be saved there.

    Raises:
        FileExistsError: something is there, and ``overwrite`` is not asked for, or other files than a model's are.
        OSError: no folder or file can be made there.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise FileExistsError(f"needed a new folder for the model, got {folder}, which exists; pass --overwrite")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"needed a folder for the model, got the file {folder}; name another")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names and (SUMS not in names or not names <= _NAMES):
        raise FileExistsError(f"needed a model to overwrite, got {folder} with other files; name another folder")
    # The folders above are made when the model is saved, not now: the nearest one that exists must take a file.
    above = next(parent for parent in folder.resolve().parents if parent.exists())
    with tempfile.TemporaryFile(dir=above):
        pass


@contextmanager
def replacing_model(folder: str | Path, files: Sequence[str], *, overwrite: bool) -> Iterator[Path]:
    """A folder to write the files of a model in, which takes the name of the wanted one when the block has ended well.

    Raises:
        FileExistsError, OSError: as ``check_destination``; an older model is left as it was.
    """
    check_destination(folder, overwrite=overwrite)
    with replacing_folder(folder) as part:
        yield part
        (part / SUMS).write_text("".join(f"{_sum(part / name)}  {name}\n" for name in files), encoding="utf-8")


@contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """A folder to write in under another name, which takes the place of any older one when the block has ended well."""
    folder = Path(folder).resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    clear_remains(folder)
    with _renamed_when_complete(folder) as part:
        yield part


def where_saved(folder: str | Path) -> Path:
    """The folder of a model, or where it was moved by a save that was killed before the new one took its place.

    Nothing is renamed, as another process may be saving there right now.
    """
    folder = Path(folder)
    return folder if folder.exists() else next(_moved_aside(folder.resolve()), folder)


def task_of(folder: str | Path) -> str:
    """What a saved model is for: "segmentation", or "table", which is also said of what is no model at all.

    What is wrong with a folder is told by whoever loads it.
    """
    try:
        content = json.loads((where_saved(folder) / "model.json").read_text(encoding="utf-8"))
        return "segmentation" if content["task"] == "segmentation" else "table"
    except (LookupError, OSError, RecursionError, TypeError, ValueError):
        return "table"


def write_weights(network: nn.Module, path: Path) -> None:
    """Write the weights of a network, as they are whatever their order in memory."""
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)


def read_weights(network: nn.Module, path: Path) -> None:
    """Give a network the weights of a file.

    Raises:
        ValueError: the file is damaged, holds other weights, or some that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
        check_finite(weights, str(path))
        if any(value.dtype != torch.float32 for value in weights.values()):
            raise RuntimeError("weights other than float32")
        network.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"needed the weights of the model, got {path} ({reason}); train the model anew") from error


def check_is_model(folder: Path) -> None:
    """Raise a FileNotFoundError unless a model was saved in the folder."""
    if not (where_saved(folder) / SUMS).is_file():
        raise FileNotFoundError(f"needed a folder written by rlgrad train, got {folder}, which has no {SUMS}")


def verify(folder: Path, files: Sequence[str]) -> None:
    """Check that the files of a model are all there, and as they were saved.

    Raises:
        FileNotFoundError: the folder or a file is missing.
        ValueError: a file is not as it was saved.
    """
    check_is_model(folder)
    lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in files:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"needed {name} in {folder}, got none; copy the whole folder")
        if sums.get(name) != _sum(folder / name):
            raise ValueError(f"needed {folder / name} as it was saved, got other content; restore the folder")


def _sum(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def check_finite(weights: dict[str, torch.Tensor], where: str) -> None:
    """Raise a ValueError if a weight is not finite."""
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"needed finite weights, got others for {name} in {where}; train it anew")


@contextmanager
def _renamed_when_complete(folder: Path) -> Iterator[Path]:
    """A temporary folder beside the wanted one, which takes its place when the block is left without an error."""
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        yield part
        part.chmod(0o755)  # mkdtemp's is private
        for path in (*part.iterdir(), part):
            _synchronise(path)
        old = part.with_suffix(".old")
        try:
            if folder.exists():
                folder.rename(old)
            part.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
        _synchronise(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def clear_remains(folder: Path) -> None:
    """Remove what a killed save left; a model that it had only moved aside comes back first."""
    for old in _moved_aside(folder):
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(folder)
    for part in folder.parent.glob(f".{glob.escape(folder.name)}.*.part"):
        shutil.rmtree(part, ignore_errors=True)


def _moved_aside(folder: Path) -> Iterator[Path]:
    return folder.parent.glob(f".{glob.escape(folder.name)}.*.old")


def _synchronise(path: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

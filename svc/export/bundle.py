"""The folder of an exported voice on disk: it appears whole, or not at all."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from svc.atomic import make_folder, output_error
from svc.config.bundle import MANIFEST, GraphFacts, file_sha256
from svc.errors import OutputError, import_extra
from svc.export.graph import GraphCheck


def check_output(folder: Path, *, force: bool) -> None:
    """See that a bundle may be written, before any work.

    Args:
        folder: where it shall go.
        force: replace an exported voice.

    Raises:
        OutputError: something is there: an exported voice without `force`, or anything else.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputError(f"cannot make the folder {folder}: a file of that name is there")
    if not any(folder.iterdir()):
        return
    if not (folder / MANIFEST).is_file():
        raise OutputError(
            f"{folder} holds other files and no {MANIFEST}: it is never replaced; choose another "
            "folder"
        )
    if not force:
        raise OutputError(
            f"{folder} holds an exported voice already; choose another folder, or replace it with "
            "--force"
        )


@contextlib.contextmanager
def new_bundle(folder: Path, *, force: bool) -> Iterator[Path]:
    """Yield a hidden folder beside `folder` to write into; it is renamed when all went well and
    removed when not.

    Args:
        folder: where the bundle shall go.
        force: replace an exported voice that is there, at the very end.

    Yields:
        The folder to write into.

    Raises:
        OutputError: see `check_output`, or the disk's reason.
    """
    check_output(folder, force=force)
    temporary = folder.with_name(f".tmp-{secrets.token_hex(8)}")
    make_folder(temporary)
    try:
        yield temporary
        _replace(temporary, folder, force=force)
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(new: Path, folder: Path, *, force: bool) -> None:
    check_output(folder, force=force)  # the export took minutes
    if not folder.exists():
        new.rename(folder)
        return
    # A folder that is not empty cannot be renamed over.
    old = folder.with_name(f".tmp-{secrets.token_hex(8)}")
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def graph_facts(path: Path, check: GraphCheck) -> GraphFacts:
    """Describe a graph for the manifest.

    Args:
        path: the graph.
        check: its comparison.
    """
    onnx = import_extra("onnx", "onnx")
    model = onnx.load(str(path), load_external_data=False)
    opset = next(int(used.version) for used in model.opset_import if used.domain in ("", "ai.onnx"))
    return GraphFacts(
        sha256=file_sha256(path),
        bytes=path.stat().st_size,
        opset=opset,
        max_abs_error=check.max_abs_error,
        tolerance=check.tolerance,
        lengths=check.lengths,
    )

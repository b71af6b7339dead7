"""Writing the checkpoints of a run so that nothing is lost: not by a full disk, not by a bad one, not
by a kill.

    room for all files of the save?     no: nothing is touched
    D: temporary file, synced, read back, renamed
    G: temporary file, synced, read back, renamed
    older files that need not be kept are deleted

Whatever breaks this off before the last line leaves the older files whole, and of the new ones at
most a D without its G, which the next start passes over (`rundir.find_start`).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from svc.atomic import check_space
from svc.checkpoint import prune, save_checkpoint, tensor_bytes

logger = logging.getLogger(__name__)


class Saver:
    """Writes the files of a save together, then removes older ones.

    Args:
        run_dir: folder of the run.
        clean: called when all files of a save are on the disk and have read back; removes what need
            not be kept.
    """

    def __init__(self, run_dir: Path, clean: Callable[[], object] | None = None) -> None:
        self.run_dir, self._clean = run_dir, clean

    def save(self, files: Mapping[str, Mapping[str, Any]]) -> list[Path]:
        """Write all files or none.

        Args:
            files: dictionaries by name in the run folder, in the order in which they are written; a
                resume looks for the last one.

        Returns:
            The paths.

        Raises:
            OutputError: full disk, read-only folder, or a file that does not read back as it was
                written; earlier files are whole, and none of this save is left but those that took
                the place of one of the same name.
        """
        paths = [self.run_dir / name for name in files]
        check_space(paths[-1], sum(map(tensor_bytes, files.values())))
        new: list[Path] = []
        try:
            for path, content in zip(paths, files.values(), strict=True):
                if not path.exists():
                    new.append(path)
                save_checkpoint(content, path, read_back=True)
        except BaseException:  # a second Ctrl-C too
            for path in reversed(new):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
        if self._clean is not None:
            try:
                self._clean()
            except OSError as error:  # what counts is saved
                logger.warning("old checkpoints in %s stay: %s", self.run_dir, error)
        return paths


def save_pair(
    run_dir: Path,
    step: int,
    generator: Mapping[str, Any],
    discriminator: Mapping[str, Any],
    *,
    keep: int,
    kind: str = "G",
) -> tuple[Path, Path]:
    """Write D, then G (or V), then delete old pairs.

    G is what a resume looks for, so whenever it is there, its D is.

    Args:
        run_dir: folder of the run.
        step: goes into the names.
        generator: dictionary of G.
        discriminator: dictionary of D.
        keep: pairs to keep, step 0 not counted; 0 keeps all.
        kind: what the name of the generator's file begins with.

    Returns:
        The two paths, that of G first.

    Raises:
        OutputError: the pair cannot be written; the earlier ones are whole.
    """

    def clean() -> None:
        prune(run_dir, kind, keep)
        prune(run_dir, "D", keep)

    pair = {f"D_{step}.pth": discriminator, f"{kind}_{step}.pth": generator}
    paths = Saver(run_dir, clean).save(pair)
    return paths[1], paths[0]

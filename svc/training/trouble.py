"""What a run does about numbers that are not finite: the steps are left out (`numerics.step_unless`),
counted and written down with their clips; too many in a row, and it goes back to its newest
checkpoint; where that does not help, it ends and says which clips to listen to.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from svc.errors import SvcError
from svc.training.journal import Journal, open_lines
from svc.training.microbatch import MicroBatches
from svc.training.numerics import NORMS, FiniteGuard, SeenStep
from svc.training.ranks import PeerError, Ranks

FILE = "bad_clips.jsonl"
"""In the run folder. One JSON object a line: "step", "epoch", "done" (what was done about it), and of
a step that was skipped "losses" (what was not finite), "clips" of the batch, and "suspects" (those of
them whose own audio was not finite).
"""
KEY = "trouble"
"""Key of the ``svc`` entry of a checkpoint."""
MAX_ROLL_BACKS = 3
"""Without a good save in between."""
_TOLD = 5  # events that are told one by one; then the 10th, the 100th, the 1000th ...
_NAMED = 3  # clips in a message


class Watched(Protocol):
    """What is trained."""

    guard: FiniteGuard
    micro: MicroBatches
    ranks: Ranks

    def sound(self) -> bool:
        """Return whether all weights are finite numbers; waits for the device."""


class Trouble:
    """Counts what goes wrong in a run, and acts. All processes of a run do so alike.

    Args:
        learner: what is trained.
        run_dir: folder of the run.
        journal: told of events.
        roll_back: fills everything from a checkpoint of the run and returns its path; None when there
            is none. Told how many of the newest to pass over, for those did not help.
        max_bad: skipped steps in a row that it takes to roll back (`train.max_bad_steps`).
        advice: what the user can change, after "listen to them, ".
    """

    def __init__(
        self,
        learner: Watched,
        run_dir: Path,
        journal: Journal,
        roll_back: Callable[[int], Path | None],
        *,
        max_bad: int,
        advice: str,
    ) -> None:
        self.path, self.journal, self.advice = run_dir / FILE, journal, advice
        self.max_bad, self._learner, self._roll_back = max_bad, learner, roll_back
        learner.micro.tell = partial(journal.note, level=logging.WARNING)
        self._step, self._epoch = 0, 1
        self.skipped = 0
        """Steps left out over the whole run."""
        self.in_a_row = 0
        """Of them, those since the last good step or roll-back."""
        self.roll_backs = 0
        """Over the whole run."""
        self._vain = 0  # roll-backs since the last good save
        self._learnt = False  # whether there was a good step since the last roll-back
        self._ended = self._mended = False

    # ---- what is seen ----------------------------------------------------------------------------

    def look(self, step: int, epoch: int) -> None:
        """Take note of what is known after step number `step`, and act; nobody waits for the device.

        Raises:
            SvcError: rolling back has not helped or is not possible; names the clips that were seen
                most often and says what to do.
        """
        self._step, self._epoch = step, epoch
        self._look(self._learner.guard.behind)

    def settle(self) -> None:
        """Take note of every step that was taken, and look at the weights: before they are used.
        Raises like `look`.
        """
        self._look(0)
        if not self._learner.sound():
            self._go_back("weights that are not finite")

    def _look(self, keep: int) -> None:
        for seen in self._learner.guard.drain(keep):
            self._see(seen)
        if self.in_a_row >= self.max_bad and not self._ended:
            self._go_back(f"nothing finite in {self.in_a_row} steps in a row")

    def _see(self, seen: SeenStep) -> None:
        if not seen.bad:
            # One whose gradients overflowed in float16 is neither good nor bad: its scaler reacts.
            if not seen.strange:
                self.in_a_row, self._learnt = 0, True
            return
        self.skipped += 1
        self.in_a_row += 1
        facts = self._gather(seen)
        self._write({"step": seen.step, "epoch": self._epoch, **facts, "done": "skipped"})
        if self.skipped <= _TOLD or str(self.skipped).rstrip("0") == "1":
            strange = facts["losses"]
            named = [name for name in strange if name not in NORMS] or list(strange)
            losses = ", ".join(f"{name} = {strange[name]}" for name in named)
            self._warn(
                f"step {seen.step} was skipped ({losses}), number {self.skipped} of this run; clips: "
                f"{', '.join(facts['suspects'] or facts['clips'])}; all such steps are in {self.path}"
            )

    def _gather(self, seen: SeenStep) -> dict[str, Any]:
        """Return what a bad step's line says, of the processes whose own losses are not finite; of
        all where only the gradients are not, which are averaged.
        """
        own = {
            "losses": {name: str(value) for name, value in seen.strange.items()},
            "clips": list(seen.names),
            "suspects": list(seen.suspects),
        }
        told = [json.loads(text) for text in self._learner.ranks.exchange(json.dumps(own))]
        found = [facts for facts in told if facts["suspects"] or set(facts["losses"]) - set(NORMS)]
        facts: dict[str, Any] = {"losses": {}, "clips": [], "suspects": []}
        for part in found or told:
            facts["losses"].update(part["losses"])
            facts["clips"] += part["clips"]
            facts["suspects"] += part["suspects"]
        return facts

    def _go_back(self, why: str) -> None:
        if self._vain >= MAX_ROLL_BACKS:
            raise self._end(why, f"{self._vain} roll-backs have not helped")
        path = self._roll_back(self._vain)
        if path is None:
            raise self._end(why, "there is no checkpoint yet to go back to")
        self.roll_backs += 1
        self._vain += 1
        self.in_a_row, self._learnt = 0, False
        done = f"rolled back to {path.as_posix()}"
        self._write({"step": self._step, "epoch": self._epoch, "done": done})
        self.journal.event("roll_back", self._step, path=path.as_posix())
        self._warn(
            f"{why}, up to step {self._step}: weights, optimizers and loss scaler are those of {path} "
            "again; the run goes on with the next clips and the same learning rate"
        )

    def _end(self, why: str, vain: str) -> SvcError:
        self._ended = True
        if not self._learner.ranks.is_main:
            return PeerError("")  # rank 0 tells
        worst = ", ".join(f"{name} ({count} times)" for name, count in self.worst()[:_NAMED])
        return SvcError(
            f"step {self._step}: {why}, and {vain}; the clips seen most often: {worst or 'none'} (all in "
            f"{self.path}); listen to them, {self.advice}; what is saved is good, go on with the "
            "same command"
        )

    # ---- what is kept ----------------------------------------------------------------------------

    def entries(self) -> dict[str, Any]:
        """Return what a checkpoint that is written now keeps, for its ``svc`` entry. Settles first, and
        raises like `look`.
        """
        self.settle()
        if self._learnt:
            self._vain = 0
        counts = {
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
            "roll_backs": self.roll_backs,
            "vain": self._vain,
            "learnt": int(self._learnt),
        }
        return {KEY: {**counts, **self._learner.micro.state_dict()}}

    def keep(self, count: int) -> int:
        """Return how many of the newest checkpoints a save leaves: `count`, or all (0) while steps
        are being skipped, because of the older ones it is known that they are good.
        """
        return 0 if self.in_a_row else count

    def go_on(self, extra: Mapping[str, Any] | None) -> None:
        """Take over what `entries` has given to a checkpoint, from its ``svc`` entry."""
        kept = (extra or {}).get(KEY) or {}
        self.skipped = int(kept.get("skipped", 0))
        self.in_a_row = int(kept.get("in_a_row", 0))
        self.roll_backs = int(kept.get("roll_backs", 0))
        self._vain = int(kept.get("vain", 0))
        self._learnt = bool(kept.get("learnt", False))
        micro = self._learner.micro
        micro.load_state_dict(kept)
        if micro.limit is not None:
            self.journal.note(f"{micro.limit} clips at a time go through the nets, as before")

    def worst(self) -> list[tuple[str, int]]:
        """Return clips by how often they were in a step that was skipped, the most frequent first:
        suspects where a step has some.
        """
        counts: Counter[str] = Counter()
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:  # cut off by a kill
                    continue
                counts.update(entry.get("suspects") or entry.get("clips") or ())
        return counts.most_common()

    def summary(self) -> str | None:
        """Return one line about the whole run; None when nothing was wrong."""
        if not self.skipped:
            return None
        back = f", {self.roll_backs} roll-backs" if self.roll_backs else ""
        worst = ", ".join(f"{name} ({count})" for name, count in self.worst()[:_NAMED])
        return (
            f"{self.skipped} steps of this run were skipped, nothing finite in them{back}; their "
            f"clips are in {self.path}" + (f", most often {worst}" if worst else "")
        )

    def tell_summary(self) -> None:
        """Write `summary` into the journal."""
        text = self.summary()
        if text is not None:
            self._warn(text)

    def _write(self, entry: Mapping[str, Any]) -> None:
        if not self._learner.ranks.is_main:
            return
        text = json.dumps(entry, ensure_ascii=False)
        try:
            file = self.path.open("a", encoding="utf-8") if self._mended else open_lines(self.path)
            with file:
                file.write(text + "\n")
            self._mended = True
        except OSError as error:
            self._warn(f"cannot write {self.path} ({error.strerror}): {text}")

    def _warn(self, text: str) -> None:
        self.journal.note(text, level=logging.WARNING)

"""The attempt's checkpoints: noticed, validated, made durable, counted, written down."""

from __future__ import annotations

import os
import select
import stat

from runctl.agent import clocks, saver
from runctl.agent.child import Helper, fork_helper
from runctl.agent.files import Journal, replace_json
from runctl.agent.watch import Candidate, CutOff, Watch
from runctl.checkpoints import names
from runctl.checkpoints.places import S3

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Dict, List, Optional

    from runctl.agent.clocks import Now
    from runctl.agent.spec import Spec
    from runctl.checkpoints.durable import Durable

    Json = Dict[str, Any]

LOOK_SECONDS = 1.0
# When the training has ended, or is asked to save: what it saves must be noticed soon.
BRISK_LOOK_SECONDS = 0.2
# A copy of fewer bytes takes its time for other reasons than its size: it doesn't tell how long a large one takes.
LEAST_TELLING = 16 * 1024 * 1024
RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 60.0
# Who died may have stored what nobody noted: how long an object storage is asked for that.
SURVEY_SECONDS = 60.0


class RestoreFailed(Exception):
    """The training can't start with its checkpoints as the spec says; `args[0]` says why."""


class Keeper:
    """`poll` moves on, one fork at a time. Instants are of the active clock; `complete_at` and `durable_at` are
    when the content
    was noticed, which is how old it is."""

    def __init__(
        self, spec: Spec, event: Callable[[str, str], None], fork: Callable[..., Helper] = fork_helper
    ) -> None:
        self._spec = spec
        self._fork = fork
        self._event = event
        self._watch = Watch(spec.checkpoint.dir, spec.checkpoint.format)
        self._journal = Journal(os.path.join(spec.run_dir, "checkpoints.jsonl"), "line")
        self.helper: Optional[Helper] = None
        self._busy: Optional[Candidate] = None
        self._began = 0.0
        self._looked_at = -LOOK_SECONDS
        self._looked_after_end = False
        self._ended_at: Optional[float] = None
        # How the training ended, if what it wrote last may be torn.
        self.cut_off: Optional[CutOff] = None
        self._asked = 0
        self._hurry_until = 0.0
        self._restored: Optional[str] = None
        # What the training goes on from, where that isn't what it was to go on from.
        self.resumed_instead: Optional[Json] = None
        self._verdict: Json = {}
        self._reported = False
        self._newest: Optional[Json] = None
        self._newest_durable: Optional[Json] = None
        self._durable_before: Optional[Json] = None
        self._durable = 0
        self._invalid = 0
        self._rate = 0.0
        self.noticed_at: Optional[float] = None
        self.complete_at: Optional[float] = None
        self.durable_at: Optional[float] = None
        self.newest_path: Optional[str] = None
        self.last_copy = 0.0

    @property
    def seen(self) -> int:
        return self._watch.seen

    @property
    def settled(self) -> bool:
        """Whether, after the training's end, nothing is left to look at or to copy."""
        return self._looked_after_end and self.helper is None and not self._watch.pending

    def state(self) -> Json:
        return {
            "seen": self.seen,
            "durable": self._durable,
            "invalid": self._invalid,
            "newest": self._newest,
            "newest_durable": self._newest_durable,
            "settling": self._watch.settling,
        }

    # Before the start

    @property
    def restoring(self) -> Optional[str]:
        """What is being restored, in words: some gigabytes take a while."""
        wanted = self._spec.checkpoint.restore
        if wanted is None or self.helper is None or self._restored is not None:
            return None
        return f"restore {wanted.name}"

    def prepare(self, now: Now) -> Optional[str]:
        """Make the directory, sweep, restore: the restored path or "" when that is done, None before. Raises
        RestoreFailed.
        """
        if self._restored is None:
            if self.helper is None:
                self._make_directory()
                self.helper = self._fork(saver.prepare(self._spec), "prepare")
            ended = self.helper.descriptor < 0
            for report in self.helper.reports():
                if "restored" in report:
                    self._restored = report["restored"]
                elif "numbered" in report:
                    self._watch.seen = report["numbered"]
                elif "collide" in report:
                    self._event("checkpoints_may_collide", report["collide"])
                elif "before" in report:
                    self.resumed_instead = report["instead"]
                    self._event("started_before", report["before"])
                elif "damaged" in report:
                    self.resumed_instead = report["instead"]
                    self._event("checkpoint_damaged", report["damaged"])
                else:
                    raise RestoreFailed(str(report.get("failed") or report.get("error")))
            if self._restored is None and ended:
                raise RestoreFailed("the checkpoint to go on from can't be restored: the copying was killed")
            if self._restored is None:
                return None
            self.helper.close()
            self.helper = None
            self._watch.baseline()
            if self._restored:
                self._event("restored", self._restored)
        return self._restored

    def _make_directory(self) -> None:
        path = self._spec.checkpoint.dir
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            if not stat.S_ISDIR(os.stat(path).st_mode):
                raise NotADirectoryError
        except (FileExistsError, NotADirectoryError):
            raise RestoreFailed(f"the checkpoint directory `{path}` can't be made: a file is in its place") from None
        except OSError as error:
            raise RestoreFailed(f"the checkpoint directory `{path}` can't be made: {error.strerror}") from None
        if not os.access(path, os.W_OK | os.X_OK):
            raise RestoreFailed(f"the checkpoint directory `{path}` can't be written to")

    def resume(self, began: float, settling: object) -> None:
        """Go on where another agent, which is dead, was stopped. The training `began` at that wall-clock instant;
        `settling` is what the agent had learned of its directories.
        """
        spec = self._spec
        settled: Dict[str, float] = {}
        found = self._survey()
        numbers = [0, *(number for report in found for number in report.get("numbers", ()))]
        kept: Dict[int, Json] = {}
        for line in self._journal.resume():
            seq, at, status = line.get("seq"), line.get("at"), line.get("status")
            if line.get("attempt") != spec.attempt or not isinstance(seq, int) or not isinstance(at, (int, float)):
                continue
            numbers.append(seq)
            if status == "durable":
                self._durable += 1
                kept[seq] = line
            elif status in ("invalid", "pruned"):
                self._durable -= status == "invalid" and seq in kept
                kept.pop(seq, None)
            if status in ("durable", "invalid"):
                settled[str(line.get("name"))] = at
        for line in self._reconcile(kept, found):
            self._durable += 1
            settled[str(line["name"])] = line["at"]
        self._durable_before, self._newest_durable = [None, None, *(kept[seq] for seq in sorted(kept))][-2:]
        newest = None if self._newest_durable is None else str(self._newest_durable.get("name"))
        self._watch.resume(max(numbers), settled, newest, began)
        if isinstance(settling, (int, float)):
            self._watch.settling = max(self._watch.settling, float(settling))
        self._restored = ""

    def _survey(self) -> List[Json]:
        """What a look at the copies reported; it may have been cut short."""
        if not self._spec.checkpoint.destination.startswith(S3):
            reports: List[Json] = []
            saver.survey(self._spec)(reports.append)
            return reports
        # Who asks a network for long must not keep the guardian from its last word.
        helper = self._fork(saver.survey(self._spec), "survey")
        until = clocks.now().active + SURVEY_SECONDS
        reports = helper.reports()
        while helper.descriptor >= 0 and clocks.now().active < until:
            select.select([helper.descriptor], [], [], LOOK_SECONDS)
            reports += helper.reports()
        if helper.descriptor >= 0:
            helper.kill()
            helper.close()
        return reports

    def _reconcile(self, kept: Dict[int, Json], found: List[Json]) -> List[Json]:
        """Bring the journal, and `kept` of it, in line with the copies that were found: whoever died may have made or
        removed one without having noted it. Returns the lines of those that were not noted.
        """
        if not any("surveyed" in report for report in found):
            return []  # of what can't be looked at nothing is known to be lost
        from runctl.checkpoints.durable import Durable

        copies = [Durable(*report["copy"]) for report in found if "copy" in report]
        for seq in sorted(set(kept) - {each.seq for each in copies}):
            line = kept.pop(seq)
            self._journal.append({"attempt": line["attempt"], "seq": seq, "at": line["at"], "status": "pruned"})
        noted = []
        for each in copies:
            if each.seq not in kept:
                kept[each.seq] = self._journal.append(_line_of(each, self._spec.checkpoint.dir))
                noted.append(kept[each.seq])
        return noted

    # While it runs, and after

    def ask(self, reason: str, deadline: float, now: Now) -> None:
        """Write the request file; `deadline` is a wall-clock instant."""
        self._asked += 1
        self._hurry_until = now.active + max(0.0, deadline - now.wall)
        request = {"serial": self._asked, "reason": reason, "at": now.wall, "deadline": deadline}
        try:
            replace_json(self._spec.request_path, request)
        except OSError as error:
            self._event("request_failed", f"the checkpoint request can't be written: {error.strerror}")

    def told_to_end(self) -> None:
        """The training is about to be asked to save and end, or signalled to."""
        self._watch.mark()

    def poll(self, now: Now, keep: int, still_writing: bool, left: Optional[float]) -> bool:
        """Look, validate, copy; whether anything has changed. `left` is the time for it in seconds, None: no end
        in sight.
        """
        if self._restored is None:
            return False
        if not still_writing and self._ended_at is None:
            self._ended_at = now.active
        changed = self._hear(now)
        brisk = not still_writing or now.active < self._hurry_until
        first_after_end = not still_writing and not self._looked_after_end
        if first_after_end or now.active - self._looked_at >= (BRISK_LOOK_SECONDS if brisk else LOOK_SECONDS):
            self._looked_at = now.active
            self._looked_after_end = not still_writing
            if self._watch.look(now.wall, now.active, force=first_after_end):
                changed = True
                self.noticed_at = now.active
            self._drop(keep, now, still_writing)
        if self.helper is None and self._watch.pending:
            changed = self._next(now, keep, still_writing, left) or changed
        self._journal.flush()
        return changed

    def wait(self, now: Now) -> float:
        """Seconds until a candidate is stable or due again; a second, the usual tick, if none is waited for."""
        if self.helper is not None:
            return LOOK_SECONDS
        waits = [candidate.ready_at - now.active for candidate in self._watch.pending.values()]
        return min([LOOK_SECONDS, *(max(0.01, wait) for wait in waits)])

    def stop(self, now: Now) -> None:
        """Give up what is under way; what isn't durable by now is written down as that."""
        if self.helper is not None:
            self.helper.kill()
            self.helper.close()
            self.helper = None
        waiting = sorted(self._watch.pending.values(), key=lambda candidate: candidate.order)
        for candidate in waiting:
            self._watch.done(candidate)
            detail = candidate.given_up or "there was no time left to copy it"
            self._record(candidate, now, "copying", detail=f"not durable: {detail}")
            self._event("checkpoint_not_saved", f"`{candidate.name}`: {detail}")
        self._journal.flush()

    def _drop(self, keep: int, now: Now, still_writing: bool) -> None:
        superseded = self._watch.drop_superseded(keep, self._busy, now.active, still_writing, self.cut_off)
        for candidate in superseded:
            if candidate.tries:  # of it was said that it is tried again
                self._record(candidate, now, "copying", detail="not durable: newer ones came before it could be copied")
        dropped = len(superseded) + self._watch.take_skipped()
        if dropped:
            self._event("checkpoints_superseded", f"{dropped} had newer ones before they could be copied")

    def _next(self, now: Now, keep: int, still_writing: bool, left: Optional[float]) -> bool:
        """Start on the newest candidate that is ready."""
        for candidate in sorted(self._watch.pending.values(), key=lambda c: c.order, reverse=True):
            since_end = 0.0 if self._ended_at is None else now.active - self._ended_at
            if candidate.tries and since_end > self._spec.checkpoint.grace:
                # The disk is full and nothing runs any more: the grace bounds how long that is tried again.
                self._give_up(candidate, candidate.given_up or "it could not be copied", now)
                return True
            if not candidate.is_ready(now.active, still_writing):
                continue
            if left is not None and self._rate and candidate.size / self._rate > left:
                self._give_up(candidate, "copying it would take longer than the time left", now)
                return True
            facts = {
                "job": self._spec.job,
                "uid": self._spec.uid,
                "attempt": self._spec.attempt,
                "seq": candidate.seq,
                "name": candidate.name,
                "step": names.step_of(candidate.name),
                "epoch": names.epoch_of(candidate.name),
                "at": candidate.at,
                # Nothing but time says that it is whole.
                "unproven": candidate.kind == "directory" and still_writing and not candidate.proven,
            }
            self._busy, self._began, self._reported = candidate, now.active, False
            self._verdict = {}
            doubted = candidate.doubted(self.cut_off)
            self.helper = self._fork(saver.settle(self._spec, candidate, facts, keep, doubted), "settle")
            return True
        return False

    def _give_up(self, candidate: Candidate, why: str, now: Now) -> None:
        self._watch.done(candidate)
        self._record(candidate, now, "copying", detail=f"not durable: {why}")
        self._event("checkpoint_not_saved", f"`{candidate.name}`: {why}")

    def _hear(self, now: Now) -> bool:
        """Take what the fork reports."""
        helper, candidate = self.helper, self._busy
        if helper is None or candidate is None:
            return False
        reports = helper.reports()
        for report in reports:
            self._take_report(candidate, report, now)
        if helper.descriptor < 0:
            if not self._reported:
                self._fail(candidate, {"error": "the copying was killed"}, now)
            self.helper = self._busy = None
        return bool(reports)

    def _take_report(self, candidate: Candidate, report: Json, now: Now) -> None:
        if "withdrawn" in report:
            self._on_withdrawn(report["withdrawn"])
        elif "verdict" in report:
            self._verdict = report["verdict"]
            if self._verdict["valid"]:
                self.complete_at = max(self.complete_at or 0.0, candidate.noticed_at)
                self._newest = self._describe(candidate, "copying", self._verdict["detail"])
                self.newest_path = self._newest["path"]
                return
            self._reported = True
            stable = now.active - candidate.changed_at >= 1.0 or self._ended_at is not None
            if not stable and not candidate.tried:
                candidate.tried = True  # still being written, it seems: judge it when it has stopped changing
                return
            self._invalid += 1
            self._watch.done(candidate)
            self._record(candidate, now, "invalid", detail=self._verdict["detail"])
            self._event("checkpoint_invalid", f"`{candidate.name}` {self._verdict['detail']}")
        elif "durable" in report:
            self._reported = True
            self._on_durable(candidate, report["durable"], now)
        elif "pruned" in report:
            old = report["pruned"]
            self._journal.append({**old, "at": now.wall, "status": "pruned"})
            before = self._durable_before
            if before is not None and (before["attempt"], before["seq"]) == (old["attempt"], old["seq"]):
                self._durable_before = None
        elif "changed" in report:
            self._reported = True
            self._watch.touched(candidate, now.active)
        elif "error" in report:
            self._reported = True
            self._fail(candidate, report, now)

    def _on_withdrawn(self, seq: int) -> None:
        """The newest durable one was taken for whole before its last files came."""
        was = self._newest_durable
        if was is None or was["seq"] != seq:
            return
        detail = "was taken for whole before its last files came"
        self._journal.append({**was, "status": "invalid", "detail": detail, "durable_path": None})
        self._event("checkpoint_withdrawn", f"`{was['name']}` {detail}")
        self._durable -= 1
        self._newest_durable = self._durable_before

    def _on_durable(self, candidate: Candidate, stored: Json, now: Now) -> None:
        self._watch.done(candidate)
        self._durable += 1
        self.last_copy = now.active - self._began
        if stored["bytes"] >= LEAST_TELLING:
            self._rate = max(self._rate, stored["bytes"] / max(0.001, self.last_copy))
        self.durable_at = max(self.durable_at or 0.0, candidate.noticed_at)
        entry = self._record(
            candidate,
            now,
            "durable",
            detail=self._verdict.get("detail"),
            bytes=stored["bytes"],
            durable_path=stored["path"],
            sha256=stored["sha256"],
            saved_in=round(now.active - candidate.noticed_at, 3),
        )
        if self._newest_durable is None or self._newest_durable["seq"] < candidate.seq:
            self._durable_before, self._newest_durable = self._newest_durable, entry

    @property
    def newest_bytes(self) -> int:
        """The size of the newest durable checkpoint; 0 if there is none."""
        return int(self._newest_durable["bytes"]) if self._newest_durable is not None else 0

    def _fail(self, candidate: Candidate, report: Json, now: Now) -> None:
        """A copy failed: the training goes on, the copy is tried again."""
        if self._watch.pending.get(candidate.name) is not candidate:
            return  # pruning failed after the copy
        if not os.path.lexists(os.path.join(self._spec.checkpoint.dir, candidate.name)):
            return  # the script removed it: the next look lets it go
        why = str(report["error"])
        candidate.given_up = why
        candidate.tries += 1
        candidate.retry_at = now.active + min(RETRY_SECONDS * 2 ** (candidate.tries - 1), MAX_RETRY_SECONDS)
        if candidate.tries == 1:
            self._record(candidate, now, "copying", detail=f"could not be copied, is tried again: {why}")
            self._event("checkpoint_copy_failed", f"`{candidate.name}`: {why}")

    def _record(self, candidate: Candidate, now: Now, status: str, **facts: object) -> Json:
        entry = {**self._describe(candidate, status, None), **facts}
        if self._newest is None or self._newest["seq"] <= candidate.seq:
            self._newest = entry
        self._journal.append(entry)
        return entry

    def _describe(self, candidate: Candidate, status: str, detail: Optional[str]) -> Json:
        return {
            "seq": candidate.seq,
            "at": candidate.at,
            "name": candidate.name,
            "path": os.path.join(self._spec.checkpoint.dir, candidate.name),
            "step": names.step_of(candidate.name),
            "epoch": names.epoch_of(candidate.name),
            "bytes": candidate.size,
            "format": self._verdict.get("format", candidate.kind),
            "status": status,
            "detail": detail,
            "durable_path": None,
            "sha256": None,
            "attempt": self._spec.attempt,
            "saved_in": None,
        }


def _line_of(copy: Durable, directory: str) -> Json:
    """What the journal would say of a durable copy, by its manifest."""
    from runctl.checkpoints import durable

    facts = {fact: copy.manifest.get(fact) for fact in ("name", "step", "epoch", "bytes", "format")}
    at, name = copy.manifest.get("at"), str(facts["name"])
    return {
        **facts,
        "seq": copy.seq,
        "at": at if isinstance(at, (int, float)) else 0.0,
        "path": os.path.join(directory, name),
        "status": "durable",
        "detail": "was durable, but not noted yet, when its agent died",
        "durable_path": copy.path,
        "sha256": durable.checksum(copy.manifest),
        "attempt": copy.attempt,
        "saved_in": None,
    }

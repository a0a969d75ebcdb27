"""Where a project begins, and which file of it is the script.

Both are found the same way wherever the command is run from: paths start at the manifest's directory.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import msgspec

from runctl.workspace.problems import RootError, ScriptError, WorkspaceError

NEAR_MATCHES = 3


class ProjectRoot(msgspec.Struct, frozen=True, kw_only=True):
    """`root` holds everything that a snapshot may hold, `workdir` is in it; both absolute, without symlinks.

    `reason` says, for the plan, why this directory and no other.
    """

    root: Path
    workdir: Path
    reason: str

    @property
    def workdir_in_root(self) -> str:
        """`workdir` relative to `root`, `.` for the root itself."""
        return self.workdir.relative_to(self.root).as_posix()


def find_root(base: Path, workdir: str) -> ProjectRoot:
    """The nearest directory at or above the workdir that holds `.git`, else the workdir itself.

    `workdir` is relative to `base`, the manifest's directory. A `.git` in the home directory (dotfiles kept in git)
    or in `/` counts only when the workdir is that directory, and nothing above the home directory is looked at from
    inside it. Raises RootError.
    """
    directory = Path(_existing_directory(base, workdir))
    shown = str(directory).encode("utf-8", "backslashreplace").decode()
    if shown != str(directory):
        raise RootError(f"the path of workdir `{workdir}` isn't UTF-8: `{shown}`", "rename what of it isn't")
    home = _home()
    for candidate in (directory, *directory.parents):
        at_barrier = candidate == home or candidate == candidate.parent
        if at_barrier and candidate != directory:
            break
        if os.path.exists(candidate / ".git"):  # a file in worktrees and submodules
            return ProjectRoot(root=candidate, workdir=directory, reason=f"`.git` is in `{candidate}`")
        if at_barrier:
            break
    return ProjectRoot(
        root=directory, workdir=directory, reason="no `.git` at or above the workdir, so it is its own root"
    )


def _existing_directory(base: Path, workdir: str) -> str:
    asked = os.path.join(base, workdir)
    where = f"workdir `{workdir}` (`{os.path.abspath(asked)}`)"
    try:
        resolved = os.path.realpath(asked, strict=True)
        with os.scandir(resolved):
            pass
        os.stat(os.path.join(resolved, "."))
    except OSError as error:
        match error.errno:
            case errno.ENOENT:
                raise RootError(f"{where} does not exist", "paths start at the manifest's directory") from None
            case errno.ELOOP:
                raise RootError(
                    f"{where} is a loop of symlinks", f"see `ls -l {asked}`, and name a real directory"
                ) from None
            case errno.ENOTDIR:
                raise RootError(f"{where} is not a directory", "name the directory that the script runs in") from None
            case _:
                raise RootError(f"{where} can't be read: {error.strerror}", "check its permissions") from None
    return resolved


def _home() -> Path | None:
    home = os.path.expanduser("~")
    return Path(os.path.realpath(home)) if os.path.isabs(home) else None


def resolve_script(root: ProjectRoot, script: str) -> Path:
    """The absolute path of the script, inside the root, its own symlinks left as they are written.

    `script` is relative to the workdir. It, and what it links to, must be a readable regular file inside the root: the
    snapshot holds nothing else. Raises ScriptError, with near matches where the file is missing.
    """
    path = os.path.normpath(os.path.join(root.workdir, script))
    where = f"script `{script}`"
    try:
        real = os.path.realpath(path, strict=True)
        info = os.stat(real)
    except OSError as error:
        if not _inside(root.root, path):
            raise _outside(where, root, path) from None
        if error.errno == errno.ELOOP:
            raise ScriptError(f"{where} is a loop of symlinks", f"see `ls -l {path}`, and name a real file") from None
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            near = _near(root, path)
            hint = (
                "did you mean " + " or ".join(f"`{name}`" for name in near) + "?"
                if near
                else (f"`script` is relative to the workdir `{root.workdir}`")
            )
            raise ScriptError(f"{where} does not exist (looked for `{path}`)", hint, near) from None
        raise ScriptError(f"{where} can't be read: {error.strerror} (`{path}`)", "check its permissions") from None
    if not _inside(root.root, path) or not _inside(root.root, real):
        raise _outside(where, root, real)
    if stat.S_ISDIR(info.st_mode):
        mains = [name for name in ("__main__.py", "main.py", "train.py") if os.path.isfile(os.path.join(path, name))]
        hint = f"name a file in it, such as `{os.path.join(script, mains[0])}`" if mains else "name the file to run"
        raise ScriptError(f"{where} is a directory (`{path}`)", hint)
    if not stat.S_ISREG(info.st_mode):
        raise ScriptError(f"{where} is not a regular file (`{path}`)", "name a file of code")
    if not os.access(real, os.R_OK):
        raise ScriptError(f"{where} can't be read: permission denied (`{path}`)", f"try `chmod u+r {path}`")
    return Path(path)


def _inside(root: Path, path: str) -> bool:
    return os.path.commonpath([root, path]) == str(root)


def _outside(where: str, root: ProjectRoot, real: str) -> ScriptError:
    return ScriptError(
        f"{where} is `{real}`, outside the project root `{root.root}` ({root.reason})",
        "only files inside the root travel with a job; move the script there, or set `workdir` to its project",
    )


def _near(root: ProjectRoot, path: str) -> tuple[str, ...]:
    """Files that the missing path may have meant, from the workdir: its name elsewhere first, then similar names."""
    import difflib

    from runctl.workspace.ignore import list_files

    try:
        found = list_files(root.root, ()).paths()
    except WorkspaceError:
        return ()
    wanted, name = os.path.relpath(path, root.workdir), os.path.basename(path)
    names = [os.path.relpath(os.path.join(root.root, file), root.workdir) for file in found]
    folded = name.casefold()
    same = sorted((n for n in names if os.path.basename(n).casefold() == folded), key=lambda n: (n.count("/"), n))
    close = difflib.get_close_matches(wanted, names, n=NEAR_MATCHES, cutoff=0.6)
    by_name: dict[str, str] = {}
    for candidate in sorted(names, key=lambda n: (-n.count("/"), n)):
        by_name[os.path.basename(candidate)] = candidate  # the shallowest of each name is kept
    also = [by_name[n] for n in difflib.get_close_matches(name, list(by_name), n=NEAR_MATCHES, cutoff=0.7)]
    return tuple(dict.fromkeys([*same, *close, *also]))[:NEAR_MATCHES]

"""What can be known of a script without running it: that it compiles, what it imports, how it is started."""

from __future__ import annotations

import ast
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from runctl.snapshots.manifest import Manifest
from runctl.workspace import distributions
from runctl.workspace.ignore import explain
from runctl.workspace.problems import Finding, ScriptError, Severity
from runctl.workspace.root import ProjectRoot

_MAX_SOURCE = 16 << 20
_NAMESPACES = frozenset({"google", "azure", "ruamel", "nvidia", "jaraco", "zope", "backports"})
"""Top-level packages that many distributions share: the first two parts of a name tell which one is meant."""
_BINARY_MAGIC = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")


class Import(msgspec.Struct, frozen=True):
    """A module that the script needs, and where it first says so."""

    module: str
    line: int
    column: int


class ScriptReport(msgspec.Struct, frozen=True, kw_only=True):
    """`imports` are modules from elsewhere than the standard library and the tree: the environment must have them.

    Empty for a script that changes `sys.path`: where its modules are is known only when it runs.
    """

    findings: tuple[Finding, ...] = ()
    imports: tuple[str, ...] = ()


def check_script(
    root: ProjectRoot,
    script: Path,
    declared: tuple[str, ...] | None,
    *,
    python: tuple[int, int] = sys.version_info[:2],
) -> ScriptReport:
    """Check the script at this absolute path (from `resolve_script`) before anything starts.

    `declared` are the names of the distributions that the environment will have; None when that isn't known (an
    environment that isn't built here), and then nothing is warned of. `python` is the version that will run it: if
    it isn't this one, a syntax error is a warning, for the other version may know the syntax.
    """
    shown = os.path.relpath(script, root.workdir)
    if script.suffix != ".py":
        try:
            launch_prefix(root.workdir, shown)
        except ScriptError as error:
            return ScriptReport(
                findings=(_finding(Severity.ERROR, "script-not-runnable", str(error), error.hint, shown),)
            )
        return ScriptReport()
    try:
        with open(script, "rb") as file:
            source = file.read(_MAX_SOURCE + 1)
    except OSError as error:
        message = f"script `{shown}` can't be read: {error.strerror}"
        return ScriptReport(
            findings=(_finding(Severity.ERROR, "script-unreadable", message, "check its permissions", shown),)
        )
    if len(source) > _MAX_SOURCE:
        message = f"script `{shown}` is bigger than {_MAX_SOURCE >> 20} MiB, so it isn't checked"
        return ScriptReport(findings=(_finding(Severity.WARNING, "script-unchecked", message, "is it code?", shown),))
    tree = _compile(source, shown, python)
    if isinstance(tree, Finding):
        return ScriptReport(findings=(tree,))
    imports = [found for found in required_imports(tree) if not _is_known(found.module, root, script)]
    lines = source.splitlines()
    return ScriptReport(
        findings=tuple(_undeclared(imports, declared, shown, lines)) if declared is not None else (),
        imports=() if _changes_module_path(tree) else tuple(found.module for found in imports),
    )


def _changes_module_path(tree: ast.Module) -> bool:
    return any(
        (isinstance(node, ast.Attribute) and node.attr == "path" and _is_name(node.value, "sys"))
        or (isinstance(node, ast.Attribute) and node.attr == "addsitedir")
        for node in ast.walk(tree)
    )


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _finding(severity: Severity, code: str, message: str, hint: str, file: str) -> Finding:
    return Finding(severity=severity, code=code, message=message, hint=hint, file=file)


def _compile(source: bytes, shown: str, python: tuple[int, int]) -> ast.Module | Finding:
    """The syntax tree, or why there is none. Compiling reads the encoding from the source itself."""
    line = column = None
    excerpt: str | None = None
    try:
        if b"\0" in source:
            before = source[: source.index(b"\0")]
            line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
            raise ValueError("it contains a null byte")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Python only warns of, it will warn of again
            tree = compile(source, shown, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
            assert isinstance(tree, ast.Module)
            compile(tree, shown, "exec", dont_inherit=True)  # finds a `return` outside a function, too
        return tree
    except SyntaxError as error:
        why = error.msg or "invalid syntax"
        line, column = error.lineno, max(error.offset or 1, 1) if error.lineno else None
        excerpt = error.text.rstrip("\r\n") if error.text else None
    except (ValueError, RecursionError, MemoryError) as error:
        why = "it is nested too deeply to compile" if isinstance(error, (RecursionError, MemoryError)) else str(error)
    if excerpt is None and line is not None:
        excerpt = _line(source.split(b"\n"), line)
    same = python == sys.version_info[:2]
    mine = ".".join(map(str, sys.version_info[:2]))
    return Finding(
        severity=Severity.ERROR if same else Severity.WARNING,
        code="script-syntax",
        message=f"script `{shown}` doesn't compile: {why}",
        hint="fix the syntax; nothing has been started"
        if same
        else f"Python {mine} says so; the job runs with Python {python[0]}.{python[1]}, which may know this syntax",
        file=shown,
        line=line,
        column=column,
        excerpt=excerpt,
    )


def _line(lines: list[bytes], number: int) -> str | None:
    if not 1 <= number <= len(lines):
        return None
    return lines[number - 1].rstrip(b"\r").decode("utf-8", "replace")


def required_imports(tree: ast.Module) -> list[Import]:
    """The absolute imports that are executed whenever the script is, each module once, in order.

    Left out: relative ones, those inside functions, those in a `try` that catches the failure, and those under a
    condition (`TYPE_CHECKING`, a platform, a version) other than `__name__ == "__main__"`.
    """
    found: dict[str, Import] = {}
    for node in _executed(tree.body):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif node.level or node.module is None:
            continue
        elif node.module in _NAMESPACES:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [node.module]
        for name in names:
            parts = name.split(".")
            module = ".".join(parts[: 2 if parts[0] in _NAMESPACES else 1])
            found.setdefault(module, Import(module, node.lineno, node.col_offset + 1))
    return list(found.values())


def _executed(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in body:
        match node:
            case ast.Import() | ast.ImportFrom():
                yield node
            case ast.Try() | ast.TryStar():
                if not any(_catches_import_error(handler.type) for handler in node.handlers):
                    yield from _executed([*node.body, *node.orelse])
                yield from _executed(node.finalbody)
            case ast.With() | ast.ClassDef():
                yield from _executed(node.body)
            case ast.If() if _is_main_guard(node.test):
                yield from _executed(node.body)
            case _:
                pass


def _catches_import_error(caught: ast.expr | None) -> bool:
    match caught:
        case None:
            return True
        case ast.Tuple(elts=elements):
            return any(_catches_import_error(element) for element in elements)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in ("ImportError", "ModuleNotFoundError", "Exception", "BaseException")
        case _:
            return False


def _is_main_guard(test: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(test))


def _is_known(module: str, root: ProjectRoot, script: Path) -> bool:
    top = module.split(".")[0]
    if top in sys.stdlib_module_names:
        return True
    places = dict.fromkeys((str(script.parent), str(root.workdir), str(root.root), str(root.root / "src")))
    return any(_has_module(place, top) for place in places)


def _has_module(directory: str, name: str) -> bool:
    base = os.path.join(directory, name)
    if os.path.isfile(base + ".py") or os.path.isdir(base):
        return True
    try:
        names = os.listdir(directory)
    except OSError:
        return False
    return any(file.startswith(name + ".") and file.endswith((".so", ".pyd")) for file in names)


def _undeclared(
    imports: Iterable[Import], declared: tuple[str, ...], shown: str, lines: list[bytes]
) -> Iterator[Finding]:
    brought = distributions.brought_by(declared)
    for found in imports:
        if distributions.is_brought(found.module, brought):
            continue
        yield Finding(
            severity=Severity.WARNING,
            code="import-undeclared",
            message=f"`{found.module}` is imported, but the declared dependencies don't seem to bring it",
            hint=f"add `{distributions.distribution_of(found.module)}` to them; the built environment is checked "
            "before the script starts",
            file=shown,
            line=found.line,
            column=found.column,
            excerpt=_line(lines, found.line),
        )


def check_travels(root: ProjectRoot, script: Path, manifest: Manifest, exclude: tuple[str, ...]) -> Finding | None:
    """An error when the script, or the file that it links to, isn't in the snapshot, with the rule that left it out.

    `exclude` are the patterns that the snapshot was taken with.
    """
    there = {entry.path for entry in manifest.entries}
    shown = os.path.relpath(script, root.workdir)
    for path in dict.fromkeys((str(script), os.path.realpath(script))):
        relative = os.path.relpath(path, root.root)
        # Below a symlinked directory the second path, without symlinks, is the one to be found.
        if relative in there or os.path.realpath(os.path.dirname(path)) != os.path.dirname(path):
            continue
        rule = explain(root.root, relative, exclude)
        why = f"{rule} excludes `{relative}`" if rule is not None else f"`{relative}` was left out"
        return Finding(
            severity=Severity.ERROR,
            code="script-ignored",
            message=f"script `{shown}` doesn't travel with the job: {why}",
            hint=f"add `!{os.path.basename(path)}` to `.runctlignore`, or correct that pattern",
            file=shown,
        )
    return None


def launch_prefix(workdir: Path, script: str) -> tuple[str, ...]:
    """The argv that runs a script which isn't Python, itself included: by its own first line, or as a shell script.

    `script` is relative to `workdir`. Raises ScriptError when nothing says how to run it.
    """
    path = os.path.join(workdir, script)
    try:
        executable = os.stat(path).st_mode & 0o100 != 0
        with open(path, "rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise ScriptError(f"script `{script}` can't be read: {error.strerror}", "check its permissions") from None
    runnable = script if "/" in script else f"./{script}"  # a bare name would be looked up on PATH
    first = start.split(b"\n", 1)[0]
    if first.startswith(b"#!") and first[2:].strip():
        if executable:
            return (runnable,)
        # What the kernel does with the line: the interpreter, and the rest as one argument.
        interpreter = first[2:].strip().decode("utf-8", "surrogateescape").split(None, 1)
        if os.path.basename(interpreter[0]) == "env" and len(interpreter) == 2:
            interpreter = [part for part in interpreter[1].split() if part != "-S"]
        return (*interpreter, runnable)
    if script.endswith((".sh", ".bash")):
        return ("bash" if script.endswith(".bash") else "sh", runnable)
    if executable and start.startswith(_BINARY_MAGIC):
        return (runnable,)
    raise ScriptError(
        f"nothing says how to run script `{script}`: it isn't a `.py` or `.sh` file and has no `#!` line",
        "begin it with a line such as `#!/usr/bin/env python3`, or name a program in `launcher`",
    )

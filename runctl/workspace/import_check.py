"""A step for the host: whether the environment that was built has the modules that the script imports."""

from __future__ import annotations

from runctl.workspace.distributions import distribution_of

EXIT_MISSING = 3

CHECK_SOURCE = f"""\
import importlib.machinery, importlib.util, sys
def there(name):
    parts = name.split(".")
    spec = importlib.util.find_spec(parts[0])
    for end in range(2, len(parts) + 1):
        if spec is None or spec.submodule_search_locations is None:
            return False
        places = list(spec.submodule_search_locations)
        try:
            spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:end]), places)
        except KeyError:  # a namespace package was found, and its parent, which we don't import, looked for
            return True
    return spec is not None
sys.path.insert(0, sys.argv[1])
missing = []
for pair in sys.argv[2:]:
    module, _, distribution = pair.partition("=")
    try:
        found = there(module)
    except (ImportError, ValueError, AttributeError):
        found = False
    if not found:
        missing.append("`%s`" % module)
        where = "requirements.txt, or to the script's `# /// script` block"
        print("hint: add `%s` to %s" % (distribution, where), file=sys.stderr)
if missing:
    print("error: the script imports %s, not found by %s" % (", ".join(missing), sys.executable), file=sys.stderr)
sys.exit({EXIT_MISSING} if missing else 0)
"""
"""Python 3.8 and later, standard library only. Finds modules without importing any of their code."""


def import_check_argv(python: str, imports: tuple[str, ...], cwd: str) -> tuple[str, ...]:
    """An argv that exits 0 if this Python finds every module, and otherwise 3 after naming the missing ones.

    `cwd` is the script's directory: modules there count, as they will when the script runs.
    """
    pairs = (f"{module}={distribution_of(module)}" for module in imports)
    return (python, "-c", CHECK_SOURCE, cwd, *pairs)

from __future__ import annotations

from runctl.manifest.job import SourcedJob
from runctl.manifest.load import differing_groups, duplicate_names
from tests.manifest import FIRST, codes, loaded


def _jobs(text: str, first: str = FIRST) -> tuple[SourcedJob, ...]:
    found = loaded(first + text)
    assert [each.severity.value for each in found.diagnostics if each.severity.value == "error"] == []
    return found.jobs


def test_one_job_for_each_combination() -> None:
    """Values are replaced in arguments, variables and labels as they are written, and nowhere else."""
    found = _jobs(
        "matrix: {lr: [0.1, 1e-4], opt: [sgd, 'no']}\n"
        "args: ['--lr=${{ matrix.lr }}', '${{matrix.opt}}', '${{ other }}', '$X']\n"
        "env: {OPT: '${{ matrix.opt }}'}\nlabels: {lr: 'x${{ matrix.lr }}'}\nworkdir: '${{ matrix.lr }}'\n"
    )
    assert [each.job.name for each in found] == ["a-0-1-sgd", "a-0-1-no", "a-1e-4-sgd", "a-1e-4-no"]
    last = found[-1].job
    assert last.args == ("--lr=1e-4", "no", "${{ other }}", "$X")
    assert (last.env, last.labels, last.workdir) == ({"OPT": "no"}, {"lr": "x1e-4"}, "${{ matrix.lr }}")
    assert last.matrix == {"lr": "1e-4", "opt": "no"}
    assert found[0].positions is found[1].positions


def test_values_that_make_no_good_names_are_numbered() -> None:
    """Where two values would make one name, or none, all members have numbers."""
    use = "args: ['${{ matrix.x }}']\n"
    assert [each.job.name for each in _jobs(use + "matrix: {x: [0.1, -0.1]}\n")] == ["a-1", "a-2"]
    assert [each.job.name for each in _jobs(use + "matrix: {x: ['', b]}\n")] == ["a-1", "a-2"]
    assert [each.job.name for each in _jobs(use + "matrix: {x: ['+']}\n")] == ["a-1"]
    assert [each.job.name for each in _jobs(use + f"matrix: {{x: [{'b' * 70}]}}\n")] == ["a-1"]


def test_an_inner_value_without_letters_is_numbered_too() -> None:
    """An empty part in the middle of a name would be lost."""
    text = "args: ['${{ matrix.x }}${{ matrix.y }}']\nmatrix: {x: ['+'], y: [b]}\n"
    assert [each.job.name for each in _jobs(text)] == ["a-1"]


def test_too_many_combinations_are_refused() -> None:
    """The product is bounded before anything is expanded."""
    keys = ", ".join(f"k{number}: [{', '.join('0123456789')}]" for number in range(4))
    uses = ", ".join(f"'${{{{ matrix.k{number} }}}}'" for number in range(4))
    assert codes(f"args: [{uses}]\nmatrix: {{{keys}}}\n") == ["matrix-too-large"]


def test_a_name_without_room_for_a_number_is_refused() -> None:
    """The longest name can't have members."""
    found = loaded(f"name: {'n' * 63}\nscript: a.py\nargs: ['${{{{ matrix.x }}}}']\nmatrix: {{x: [1]}}\n")
    assert [(each.code, each.line) for each in found.diagnostics] == [("name-too-long", 1)]


def test_a_member_keeps_an_unknown_reference() -> None:
    """What can't be replaced is an error of its own, not an empty text."""
    assert codes("args: ['${{ matrix.y }}', '${{ matrix.x }}']\nmatrix: {x: [1]}\n") == ["unknown-matrix-key"]


def test_duplicate_names_across_files() -> None:
    """Two jobs of one name are an error at the second."""
    (one,) = loaded(FIRST).jobs
    two, three = loaded(FIRST + "---\nname: b\nscript: b.py\n").jobs
    (problem,) = duplicate_names([one, two, three])
    assert (problem.code, problem.line, problem.column, problem.document) == ("duplicate-name", 1, 7, 1)
    assert "job.yaml:1:7" in problem.message


def test_jobs_of_one_group_name_one_cap() -> None:
    """Jobs that are applied together hold one cap: one that names another is an error at its place."""
    rate = "instance: {hourly_rate: 1 USD}\n"
    one, two, three, four = loaded(
        f"{FIRST}{rate}group: {{cap: 1 USD}}\n---\nname: b\nscript: b.py\n{rate}group: {{cap: 2 USD}}\n"
        f"---\nname: c\nscript: c.py\n---\nname: d\nscript: d.py\n{rate}group: {{cap: 1.00 USD}}\n"
    ).jobs
    assert list(differing_groups((three, one, four))) == list(differing_groups((one,))) == []
    (found,) = differing_groups((three, one, two))
    assert (found.code, found.line, found.column) == ("group-differs", 9, 14)
    assert found.message.startswith("`group.cap` is 2 USD here, and 1 USD in `")
    one, two = loaded(
        f"{FIRST}group: {{max_parallel: 2}}\n---\nname: b\nscript: b.py\ngroup: {{max_parallel: 3}}\n"
    ).jobs
    assert [each.line for each in differing_groups((one, two))] == [7]

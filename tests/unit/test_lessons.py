"The lessons keep to their size, every exercise has a check, and the study questions lead to headings that exist"
import json, re
import pytest
from povid_nb import check
from tools import lessons, links

FOUND = {lesson.path: lesson for lesson in lessons.lessons()}
OWED = {"05_prompts.ipynb": {"median"}, "03_noise.ipynb": {"seen"}}     # may only shrink


def faults(lesson):
    limits = {"cells": lesson.cells <= 40, "median": lesson.median <= 5, "longest": lesson.longest <= 15,
              "seen": lesson.seen >= .6}
    return {name for name, kept in limits.items() if not kept}


@pytest.mark.parametrize("path", FOUND)
def test_a_lesson_keeps_to_its_size(path):
    assert faults(FOUND[path]) == OWED.get(path, set()), FOUND[path]


def test_a_fault_is_found():
    spoilt = FOUND["00_start.ipynb"]._replace(cells=41, median=6, longest=16, seen=.5)
    assert faults(spoilt) == {"cells", "median", "longest", "seen"}


def test_there_are_twelve_lessons_and_45_exercises_with_checks():
    assert [path[:2] for path in FOUND] == [f"{n:02}" for n in range(12)]
    assert sum(lesson.exercises for lesson in FOUND.values()) >= 45
    assert all(lesson.exercises == lesson.checked for lesson in FOUND.values())


def test_every_check_belongs_to_an_exercise():
    cells = [json.loads((links.ROOT/"nbs"/path).read_text(encoding="utf-8"))["cells"]
             for path in [*FOUND, *links.labs()]]
    used = {name for cell in sum(cells, [])
            for name in re.findall(r"^assert check\.(\w+)\(", links.source(cell), re.MULTILINE)}
    assert used == set(check.exercises())


def test_code_lines_leave_out_what_is_no_code():
    assert lessons.code_lines("#| export\nimport a\n\n# why\nx = 1  # here\n") == ["import a", "x = 1  # here"]


def test_the_study_questions_lead_to_headings():
    cells = json.loads((links.ROOT/"nbs"/"11_beyond.ipynb").read_text(encoding="utf-8"))["cells"]
    table = next(links.source(cell) for cell in cells if "| question | page, heading |" in links.source(cell))
    rows = re.findall(r"^\| (?!question|---)(.+?) \| \[`\w+`\]\((\w+\.ipynb)\), (.+) \|$", table, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| (?!question|---)", table, re.MULTILINE)) >= 18
    for question, page, headings in rows:
        nb = json.loads((links.ROOT/"nbs"/page).read_text(encoding="utf-8"))
        there = re.findall(r"^## (.+)",
                           "\n".join(links.source(cell) for cell in nb["cells"] if cell["cell_type"] == "markdown"),
                           re.MULTILINE)
        for heading in re.split(r", and (?=\d)", headings):
            assert heading in there, f"{question}: {page} has no heading {heading!r}"

"""The lessons in numbers, counted from the notebooks: python -m tools.lessons

Code lines are those that hold code: no blank ones, comments or directives, and no quizzes, which are text. A line is run
to be seen if its cell is not exported.
"""
import json, re, statistics
from typing import NamedTuple
from tools import links


class Lesson(NamedTuple):
    "What a lesson is made of"
    path: str
    cells: int       # code cells
    median: float    # code lines of the middle one
    longest: int
    seen: float      # share of code lines that are run to be seen
    exercises: int   # headings that ask for one
    checked: int     # exercises with a check
    quizzes: int
    minutes: int | None   # what the lesson says it takes


def code_lines(source):
    return [line for line in source.split("\n") if line.strip() and not line.lstrip().startswith("#")]


def is_quiz(source): return source.startswith(("quiz(", "display(quiz("))


def lesson(path):
    "One notebook, counted"
    cells = json.loads((links.ROOT/"nbs"/path).read_text(encoding="utf-8"))["cells"]
    code = [links.source(cell) for cell in cells if cell["cell_type"] == "code" and not links.is_setup(cell)]
    text = "\n".join(links.source(cell) for cell in cells if cell["cell_type"] == "markdown")
    sizes = [0 if is_quiz(source) else len(code_lines(source)) for source in code]
    kept = sum(size for size, source in zip(sizes, code) if re.search(r"^#\| *exporti?\b", source, re.MULTILINE))
    checked = {name for source in code for name in re.findall(r"^assert check\.(\w+)\(", source, re.MULTILINE)}
    quizzes = sum(len(re.findall(r"\bquiz\(", source)) for source in code)
    median = statistics.median(size for size in sizes if size)
    said = re.search(r"\*\*Time\*\* (\d+) minutes", text)
    return Lesson(path, len(code), median, max(sizes), 1 - kept / sum(sizes),
                  len(re.findall(r"^### Exercise", text, re.MULTILINE)), len(checked), quizzes,
                  int(said[1]) if said else None)


def lessons():
    return [lesson(path) for path in links.lessons()]


def table():
    "All lessons as a Markdown table, with the sums in its last row"
    head = ("| lesson | code cells | median lines | longest | run to be seen | exercises | with a check | quiz "
            "questions | minutes |")
    found = lessons()
    row = lambda l: (f"| {l.path.removesuffix('.ipynb')} | {l.cells} | {l.median:g} | {l.longest} | {l.seen:.0%} | "
                     f"{l.exercises} | {l.checked} | {l.quizzes} | {l.minutes or ''} |")
    total = lambda name: sum(getattr(l, name) or 0 for l in found)
    sums = (f"| together | {total('cells')} | | | | {total('exercises')} | {total('checked')} | {total('quizzes')} | "
            f"{total('minutes')} |")
    return "\n".join([head, "|---|" + "---|" * (head.count("|") - 2), *map(row, found), sums]) + "\n"


if __name__ == "__main__": print(table(), end="")

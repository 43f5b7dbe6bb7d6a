"The list of faults in tests/README.md names tests that are there"
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_every_test_of_the_list_is_there():
    rows = [row for row in (TESTS/"README.md").read_text().splitlines() if row.startswith("| ")
            and "held by" not in row]
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(\S+?)::(\w+)`", row)
        assert named, row
        for file, name in named: assert f"def {name}(" in (TESTS/file).read_text(), f"{file}::{name}"

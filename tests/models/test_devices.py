"""Every kind of work on a stand-in for a GPU, which refuses tensors of the CPU, and on a model spread over both: no
tensor is made on the wrong device"""
import json, os, subprocess, sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def found():
    out = subprocess.run([sys.executable, HERE/"on_card.py"], capture_output=True, text=True,
                         env=os.environ | {"PYTHONPATH": str(HERE.parents[1])})
    assert out.returncode == 0, out.stderr[-2000:]
    return json.loads(out.stdout.splitlines()[-1])


def test_on_a_card_everything_gives_what_it_gives_on_the_cpu(found):
    right = {name: result for name, result in found.items() if "planted" not in name}
    assert len(right) == 25 and {name: result for name, result in right.items() if result != "same"} == {}


@pytest.mark.parametrize("fault", ["a mask without a device", "targets without a device", "numpy"])
def test_a_planted_fault_is_found(found, fault): assert found[f"planted: {fault}"].startswith("wrong device")


@pytest.mark.cuda
def test_on_a_real_card_every_kind_of_model_gives_what_it_gives_on_the_cpu():
    out = subprocess.run([sys.executable, HERE/"on_card.py", "--cuda"], capture_output=True, text=True,
                         env=os.environ | {"PYTHONPATH": str(HERE.parents[1])})
    assert out.returncode == 0, out.stderr[-2000:]
    found = {name: result for line in out.stdout.splitlines() for name, result in json.loads(line).items()}
    assert len(found) > 300 and {name: result for name, result in found.items() if result != "same"} == {}

"The whole method in real processes: killed at random moments and resumed, and shared by two."
import json, re, sys
from pathlib import Path
import pytest
from test_processes import run

WORK = Path(__file__).with_name("run_work.py")


def figures(folder):
    report = json.loads((folder/"report.json").read_text())
    return {k: v for k, v in report.items() if k not in ("seconds", "command")}


def text(folder):
    "The page without what may differ: seconds and the folder's name"
    return re.sub(r'<span class="note">\d+ s</span>', "", (folder/"report.html").read_text()).replace(str(folder), "")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")/"whole"
    run(sys.executable, WORK, "whole", folder, timeout=1200)
    return folder


@pytest.mark.slow
@pytest.mark.attack
def test_killed_five_times_and_resumed_it_reports_the_same(whole, tmp_path):
    run(sys.executable, WORK, "kill", tmp_path, 5, timeout=2400)
    assert json.loads((tmp_path/"signals.json").read_text()) == [9] * 5, "every run but the last died by SIGKILL"
    assert figures(tmp_path/"killed") == figures(whole)
    assert text(tmp_path/"killed") == text(whole)


def test_the_page_needs_nothing_else(whole):
    page = (whole/"report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page) and "http" not in page
    assert page.count("<img") >= 8 and not re.findall(r'<img(?![^>]*alt="[^"]+")', page)
    for who in ("before", "control", "stage 1", "stage 2"): assert who in page


def test_two_processes_finish_the_same_run(whole, tmp_path):
    run(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", 29519, WORK, "share",
        tmp_path, 2, timeout=1200)
    assert [(tmp_path/f"world{rank}.txt").read_text() for rank in (0, 1)] == ["2", "2"]
    one, two = figures(whole), figures(tmp_path)
    assert one["base"] == two["base"], "nothing is trained here, so nothing may differ"
    for who in ("sft", "stage1", "stage2"):
        settings = json.loads(next((tmp_path/who).glob("stage*/povid.json")).read_text())["settings"]
        assert settings["processes"] == 2
        assert settings["batch_size"] * settings["accumulation"] * settings["processes"] == 4, "the same global batch"
        for split in one[who]:
            for part, names in (("chair", ("chair_i", "recall")), ("pope", ("accuracy",))):
                for name in names:
                    assert two[who][split][part][name] == pytest.approx(one[who][split][part][name], abs=.1), (who,
                        split, name)

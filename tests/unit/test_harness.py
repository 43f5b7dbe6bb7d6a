"""harness: what lmms-eval is called with, and what becomes of its results, its errors and its absence."""
import json
import pytest
from povid_nb import harness

FAKE = '''
import json, os, pathlib, sys
said = sys.argv[1:]
pathlib.Path(os.environ["SEEN"]).write_text(json.dumps(said))
out = pathlib.Path(said[said.index("--output_path") + 1])/"model"
out.mkdir(parents=True, exist_ok=True)
if os.environ.get("RESULTS"): (out/"20261125_results.json").write_text(os.environ["RESULTS"])
sys.exit(int(os.environ.get("STATUS", 0)))
'''
RESULTS = {"results": {"pope": {"alias": "pope", "pope_accuracy,none": .86, "pope_accuracy_stderr,none": .01, "pope_f1,none": .8, "pope_f1_stderr,none": "N/A"}},
           "n-samples": {"pope": {"original": 9000, "effective": 4}}}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: True)
    (tmp_path/"lmms_eval").mkdir()
    (tmp_path/"lmms_eval"/"__main__.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SEEN", str(tmp_path/"seen.json"))
    monkeypatch.setenv("RESULTS", json.dumps(RESULTS))
    return tmp_path


def test_the_built_in_model_limit_seed_and_class_are_handed_over_and_results_come_back(fake):
    found = harness.lmms_eval(None, ["pope", "mmbench_en_dev"], fake/"out", limit=4, seed=7)
    said = json.loads((fake/"seen.json").read_text())
    value = lambda name: said[said.index(name) + 1]
    assert value("--model") == "llava_hf" and value("--model_args").startswith("pretrained=/") and value("--model_args").endswith("tiny")
    assert (value("--tasks"), value("--limit"), value("--seed"), value("--output_path")) == ("pope,mmbench_en_dev", "4", "7", str(fake/"out"))
    out = found["pope"].to_dict()
    assert (out["pope_accuracy"], out["intervals"]["pope_accuracy"], out["n"]) == (.86, pytest.approx([.8404, .8796]), 4)
    assert out["pope_f1"] == .8 and out["protocol"]["harness"] == "lmms-eval" and out["protocol"]["limit"] == 4 and out["protocol"]["kind"] == "llava_hf"


def test_a_failure_is_an_error_with_its_status_and_no_results_are_one_too(fake, monkeypatch):
    monkeypatch.setenv("STATUS", "3")
    with pytest.raises(RuntimeError, match="ended with status 3"): harness.lmms_eval("tiny", ["pope"], fake/"out")
    monkeypatch.setenv("STATUS", "0"); monkeypatch.setenv("RESULTS", "")
    with pytest.raises(RuntimeError, match="left no results"): harness.lmms_eval("tiny", ["pope"], fake/"other")


def test_classes_by_architecture(tmp_path):
    (tmp_path/"config.json").write_text('{"model_type": "qwen2_vl"}')
    assert harness._class_of(str(tmp_path)) == "qwen2_vl"
    (tmp_path/"config.json").write_text('{"model_type": "blip-2"}')
    with pytest.raises(ValueError, match="no class of lmms-eval is known here for the architecture blip-2"): harness._class_of(str(tmp_path))


def test_its_absence_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="lmms-eval is not installed: pip install lmms-eval"): harness.lmms_eval("m", ["pope"], tmp_path)

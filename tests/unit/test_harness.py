"""harness: what lmms-eval and VLMEvalKit are called with, and what becomes of their results, errors and absence."""
import json, types
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
RESULTS = {"results": {"pope": {"alias": "pope", "pope_accuracy,none": .86, "pope_accuracy_stderr,none": .01,
                                "pope_accuracy_stderr_clt,none": .01, "pope_f1,none": .8, "exact,strict": .1,
                                "exact,flexible": .2, "pope_f1_stderr,none": "N/A"}},
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
    found = harness.lmms_eval(None, ["pope"], fake/"out", limit=4, seed=7, include=fake/"tasks")
    said = json.loads((fake/"seen.json").read_text())
    value = lambda name: said[said.index(name) + 1]
    assert value("--model") == "llava_hf"
    assert value("--model_args").startswith("pretrained=/")
    assert value("--model_args").endswith("tiny,device=cpu,device_map=cpu")
    assert (value("--tasks"), value("--limit"), value("--seed"), value("--output_path")) == ("pope", "4", "7",
        str(fake/"out"))
    assert value("--include_path") == str(fake/"tasks")
    out = found["pope"].to_dict()
    assert (out["pope_accuracy"], out["intervals"]["pope_accuracy"], out["n"]) == (.86, pytest.approx([.8404, .8796]),
        4)
    # two filters of one metric stay two numbers
    assert (out["exact/strict"], out["exact/flexible"]) == (.1, .2)
    with pytest.raises(RuntimeError, match="no results of mme; it has pope"):
        harness.lmms_eval(None, ["pope", "mme"], fake/"out")
    assert not any("stderr" in name for name in found["pope"].values)
    assert out["pope_f1"] == .8
    assert out["intervals"]["pope_f1"] is None
    assert "| pope_f1 | 0.800 | not given |" in found["pope"].table()
    assert out["protocol"]["harness"] == "lmms-eval"
    assert out["protocol"]["limit"] == 4
    assert out["protocol"]["kind"] == "llava_hf"


def test_a_failure_is_an_error_with_its_status_and_no_results_are_one_too(fake, monkeypatch):
    monkeypatch.setenv("STATUS", "3")
    with pytest.raises(RuntimeError, match="ended with status 3"): harness.lmms_eval("tiny", ["pope"], fake/"out")
    monkeypatch.setenv("STATUS", "0"); monkeypatch.setenv("RESULTS", "")
    with pytest.raises(RuntimeError, match="left no results"): harness.lmms_eval("tiny", ["pope"], fake/"other")


def test_classes_by_architecture(tmp_path):
    (tmp_path/"config.json").write_text('{"model_type": "qwen2_vl"}')
    assert harness._class_of(str(tmp_path)) == "qwen2_vl"
    assert harness._class_of(str(tmp_path), "vlmevalkit") == "Qwen2VLChat"
    (tmp_path/"config.json").write_text('{"model_type": "blip-2"}')
    with pytest.raises(ValueError, match="no class of lmms-eval is known here for the architecture blip-2"):
        harness._class_of(str(tmp_path))


def test_its_absence_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="lmms-eval is not installed: pip install lmms-eval"):
        harness.lmms_eval("m", ["pope"], tmp_path)
    with pytest.raises(ImportError, match="VLMEvalKit is not installed: clone"):
        harness.vlmevalkit("m", ["POPE"], tmp_path)


KIT = '''
import json, os, pathlib, sys
said = sys.argv[1:]
config = json.load(open(said[said.index("--config") + 1]))
pathlib.Path(os.environ["SEEN"]).write_text(json.dumps([said, config]))
out = pathlib.Path(said[said.index("--work-dir") + 1])/"povid_nb"/"T20261125"
out.mkdir(parents=True, exist_ok=True)
for name, text in json.loads(os.environ["RESULTS"]).items(): (out/name).write_text(text)
sys.exit(int(os.environ.get("STATUS", 0)))
'''
TABLES = {"povid_nb_POPE_score.csv": "split,Overall,acc\nOverall,84.1,85.0\nrandom,88.0,87.5\n",
          "povid_nb_POPE_auxmatch.csv": "index,score\n1,1\n",
          "povid_nb_MMBench_DEV_EN_acc.csv": '"split","Overall","AR"\n"dev","0.5","0.25"\n',
          "povid_nb_MMBench_DEV_EN_V11_acc.csv": "split,Overall\ndev,0.75\n"}


@pytest.fixture
def kit(fake, monkeypatch):
    (fake/"kit"/"vlmeval").mkdir(parents=True)
    (fake/"kit"/"run.py").write_text(KIT)
    monkeypatch.setattr(harness.importlib.util, "find_spec",
                        lambda name: types.SimpleNamespace(origin=str(fake/"kit"/"vlmeval"/"__init__.py")))
    monkeypatch.setenv("RESULTS", json.dumps(TABLES))
    return fake


def test_vlmevalkit_gets_a_config_and_its_tables_come_back(kit):
    found = harness.vlmevalkit(None, ["POPE", "MMBench_DEV_EN", "MMBench_DEV_EN_V11"], kit/"out", kind="LLaVA_Next")
    said, config = json.loads((kit/"seen.json").read_text())
    assert said[said.index("--judge") + 1] == "exact_matching" and "--limit" not in said
    assert config["model"]["povid_nb"]["class"] == "LLaVA_Next"
    assert config["model"]["povid_nb"]["model_path"].endswith("tiny")
    assert config["data"]["POPE"] == {"class": "ImageYORNDataset", "dataset": "POPE"}
    assert config["data"]["MMBench_DEV_EN"]["class"] == "ImageMCQDataset"
    numbers = lambda name: {k: v.value for k, v in found[name].values.items()}
    assert numbers("POPE") == {"Overall": 84.1, "acc": 85, "Overall/random": 88, "acc/random": 87.5}
    assert numbers("MMBench_DEV_EN") == {"Overall": .5, "AR": .25}
    assert numbers("MMBench_DEV_EN_V11") == {"Overall": .75}
    assert found["POPE"].protocol == dict(harness="vlmevalkit", model="tiny", kind="LLaVA_Next",
                                          judge="exact_matching", results="povid_nb_POPE_score.csv")


def test_vlmevalkit_refuses_what_it_cannot_do_and_reports_what_is_lost(kit, monkeypatch):
    for how, says in ((dict(limit=4), "takes no limit and no seed"), (dict(seed=1), "takes no limit and no seed"),
                      ({}, "no class of vlmevalkit is known here for the architecture llava")):
        with pytest.raises(ValueError, match=says): harness.vlmevalkit(None, ["POPE"], kit/"out", **how)
    with pytest.raises(ValueError, match="Odd: no class of VLMEvalKit's is known here"):
        harness.vlmevalkit(None, ["Odd"], kit/"out", kind="LLaVA_Next")
    with pytest.raises(RuntimeError, match="no results of MME"):
        harness.vlmevalkit(None, ["POPE", "MME"], kit/"out", kind="LLaVA_Next")
    monkeypatch.setenv("STATUS", "2")
    with pytest.raises(RuntimeError, match="VLMEvalKit ended with status 2"):
        harness.vlmevalkit(None, ["POPE"], kit/"x", kind="LLaVA_Next")


def test_an_adapter_is_merged_first(fake, monkeypatch):
    monkeypatch.setattr(harness, "_merged", lambda source, adapter, folder: f"{folder} of {adapter}")
    found = harness.lmms_eval(None, ["pope"], fake/"out", adapter="a")
    said = json.loads((fake/"seen.json").read_text())
    assert said[said.index("--model_args") + 1].startswith(f"pretrained={fake/'out'/'merged'} of a,")
    assert found["pope"].protocol["adapter"] == "a"

"""Every lesson runs with another model in its one loading cell, and in 16 bits: what is about the built-in model in 32
bits says so and steps aside.

LLaVA and Idefics3 come from a folder by POVID_MODEL. Qwen's own processor needs torchvision, so there a start-up file
of the kernel lets `VLM.load()` return the stand-in.
"""
import itertools

import nbformat
import pytest
from tools import links, outputs
import tiny_models

QWEN = """
from povid_nb import standin
from povid_nb.vlm import VLM
_own = VLM.load
def _load(name=None, *args, **options): return _own(name, *args, **options) if name else standin._stand_in("qwen")
VLM.load = _load
"""
LESSONS = [path.removesuffix(".ipynb") for path in links.lessons()]
MODELS = ["llava", "idefics3", "qwen"]
QUICK = ("11_beyond", "idefics3")            # the rest takes half an hour


def cases():
    for lesson in LESSONS:
        for model in MODELS:
            yield pytest.param(lesson, model, id=f"{lesson}-{model}",
                               marks=() if (lesson, model) == QUICK else pytest.mark.slow)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("models")
    for name in ("llava", "idefics3"): tiny_models.save(name, top/name)
    startup = top/"ipython"/"profile_default"/"startup"
    startup.mkdir(parents=True)
    (startup/"00-qwen.py").write_text(QWEN)
    return top


def run(lesson, saying):
    "Run a lesson to its end, and what it then says"
    nb = nbformat.read(links.ROOT/"nbs"/f"{lesson}.ipynb", as_version=4)
    nb.cells.append(nbformat.v4.new_code_cell(f"from povid_nb.vlm import VLM as _V; _v = _V.load(); print({saying})"))
    outputs.Client(nb, timeout=1200, kernel_name="python3",
                   resources={"metadata": {"path": str(links.ROOT/"nbs")}}).execute()
    return "".join(output.get("text", "") for output in nb.cells[-1].outputs)


@pytest.mark.parametrize("lesson, model", cases())
def test_a_lesson_runs_with_another_model(lesson, model, folders, tmp_path, monkeypatch):
    monkeypatch.setenv("POVID_HOME", str(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if model == "qwen": monkeypatch.setenv("IPYTHONDIR", str(folders/"ipython"))
    else: monkeypatch.setenv("POVID_MODEL", str(folders/model))
    said = run(lesson, "type(_v.base).__name__")
    assert {"llava": "LlavaFor", "idefics3": "Idefics3For", "qwen": "Qwen2_5_VLFor"}[model] in said, said


QUICK_IN_16_BITS = [("03_noise", "built-in", "float16"), ("06_dpo", "built-in", "bfloat16")]

def in_16_bits():
    "A CPU is slow in 16 bits: all of these take an hour"
    for case in itertools.product(LESSONS, ["built-in", "llava"], ["bfloat16", "float16"]):
        yield pytest.param(*case, id="-".join(case), marks=() if case in QUICK_IN_16_BITS else pytest.mark.slow)


@pytest.mark.parametrize("lesson, model, dtype", in_16_bits())
def test_a_lesson_runs_in_the_precision_of_a_card(lesson, model, dtype, folders, tmp_path, monkeypatch):
    "A card computes other models in 16 bits; the built-in one only where POVID_DTYPE says so"
    monkeypatch.setenv("POVID_HOME", str(tmp_path))
    monkeypatch.setenv("POVID_DTYPE", dtype)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if model != "built-in": monkeypatch.setenv("POVID_MODEL", str(folders/model))
    assert f"torch.{dtype}" in run(lesson, "_v.dtype")

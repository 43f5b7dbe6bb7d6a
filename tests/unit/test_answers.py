"""answers: collected once, whatever stops."""
import pytest
from hypothesis import given, settings, strategies as st
from povid_nb import answers
from povid_nb.answers import collect


ITEMS = [{"id": f"i{n}"} for n in range(23)]


def shout(batch): return [{"text": b["id"].upper(), "size": len(batch)} for b in batch]


@given(stop=st.integers(0, 5), torn=st.integers(0, 30), size=st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_a_run_that_was_cut_off_anywhere_ends_the_same(tmp_path_factory, stop, torn, size):
    folder = tmp_path_factory.mktemp("c")
    whole, broken = folder/"whole.jsonl", folder/"broken.jsonl"
    rows = collect(ITEMS, shout, whole, size)
    asked = []
    def dies(batch):
        if len(asked) == stop: raise KeyboardInterrupt
        asked.append(batch)
        return shout(batch)
    try: collect(ITEMS, dies, broken, size)
    except KeyboardInterrupt:
        for part in (folder/"broken.jsonl.parts").glob("*"):
            part.write_bytes(part.read_bytes()[:-torn] if torn else part.read_bytes())
    again = []
    assert collect(ITEMS, lambda b: again.append(b) or shout(b), broken, size) == rows
    assert whole.read_bytes() == broken.read_bytes()
    if not torn: assert len(asked) + len(again) == -(-23//size)


def test_nothing_is_asked_twice_and_new_items_are_added(tmp_path):
    calls = []
    def answer(batch): calls.append(len(batch)); return shout(batch)
    collect(ITEMS[:10], answer, tmp_path/"a.jsonl", 5)
    collect(ITEMS[:10], answer, tmp_path/"a.jsonl", 5)
    assert calls == [5, 5]
    assert [r["id"] for r in collect(ITEMS, answer, tmp_path/"a.jsonl", 5)] == [i["id"] for i in ITEMS]
    assert calls == [5, 5, 5, 5, 3]
    assert [p.name for p in tmp_path.iterdir()].count("a.jsonl") == 1 and not (tmp_path/"a.jsonl.parts").exists()


def test_other_protocol_repeated_ids_wrong_number_of_answers(tmp_path):
    collect(ITEMS, shout, tmp_path/"a.jsonl", 5, {"prompt": "A"})
    with pytest.raises(ValueError, match="prompt = 'A', now 'B'"):
        collect(ITEMS, shout, tmp_path/"a.jsonl", 5, {"prompt": "B"})
    with pytest.raises(ValueError, match="2 of 4 items repeat an id"): collect(ITEMS[:2]*2, shout, tmp_path/"b.jsonl")
    with pytest.raises(ValueError, match="1 answers to 2 items"):
        collect(ITEMS[:2], lambda b: shout(b)[:1], tmp_path/"c.jsonl")


def test_a_bad_line_in_the_middle_is_named(tmp_path):
    (tmp_path/"x.jsonl").write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(ValueError, match="x.jsonl, line 2: not JSON"): answers._read_lines(tmp_path/"x.jsonl")
    (tmp_path/"y.jsonl").write_text('{"a": 1}\n\n{"a": ')
    assert answers._read_lines(tmp_path/"y.jsonl") == [{"a": 1}]


def test_the_adapter_is_part_of_what_is_kept(tmp_path):
    "Base first, then an adapter, in one folder: refused, and never the base's answers again"
    from peft import LoraConfig, get_peft_model
    from povid_nb.vlm import VLM
    vlm = VLM.load()
    base = answers._model_of(vlm)
    collect(ITEMS, shout, tmp_path/"a.jsonl", 5, base)
    vlm.model = get_peft_model(vlm.model, LoraConfig(r=2, target_modules=["q_proj"]))
    tuned = answers._model_of(vlm)
    assert tuned["model"] == base["model"] and "adapter" not in base and len(tuned["adapter"]) == 12
    with pytest.raises(ValueError, match="adapter = None"): collect(ITEMS, shout, tmp_path/"a.jsonl", 5, tuned)
    with vlm.adapter_off(): assert answers._model_of(vlm) == base
    next(p for n, p in vlm.model.named_parameters() if "lora_B" in n).data += 1
    assert answers._model_of(vlm)["adapter"] != tuned["adapter"]

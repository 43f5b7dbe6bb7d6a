"The bench: its arithmetic against counts by hand, and that all contestants do the same work"
import json, subprocess, sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import contestants, gpu, measure, scale, shapes, train

# 9 picture tokens, 5 of prompt, answers of 6
TOY = shapes.Shape("toy", (32, 64, 3, 2), (32, 64, 2, 2), 60, 4, 3, 5, 6, 2, 4)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("form", contestants.FORMS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_all_contestants_compute_one_loss_and_one_gradient(form, checkpointing):
    rows = train.compare(TOY, form, 1, whole=False, checkpointing=checkpointing)
    assert set(rows) == set(contestants.FORMS[form])
    assert abs(rows["trl"]["loss"] - .693147) > 1e-4, "equal policies would prove nothing"
    for name, row in rows.items(): assert row["loss_difference"] < 1e-5 and row["gradient_difference"] < 1e-4, name


def test_a_contestant_that_is_wrong_is_seen():
    class Wrong(contestants.Ours):
        def loss(self): return super().loss() * 1.01
    right, wrong = (kind(TOY, "dpo").gradients() for kind in (contestants.Ours, Wrong))
    found = train.difference(wrong, right)[1]
    assert found["loss_difference"] == pytest.approx(.01 * right[0], rel=1e-3)
    assert found["gradient_difference"] == pytest.approx(.01, rel=1e-3)


def test_pairs_have_exactly_the_lengths_of_the_shape():
    from povid_nb import branches
    vlm = shapes.build(TOY)
    row = branches.encode(vlm, shapes.pairs(TOY)[0])
    assert (row.prompt.count(4), len(row.prompt), len(row.chosen), len(row.rejected)) == (9, 9 + 5, 6, 6)


def test_a_saved_shape_is_the_same_model(tmp_path):
    from povid_nb.vlm import VLM
    shapes.save(TOY, tmp_path)
    made, read = shapes.build(TOY, dtype=torch.bfloat16), VLM.load(str(tmp_path), device="cpu", dtype="bfloat16")
    assert all(torch.equal(a, b) for a, b in zip(made.model.state_dict().values(), read.model.state_dict().values()))


def test_operations_are_those_counted_by_hand():
    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    assert measure.operations(lambda: a @ b) == 2 * 3 * 5 * 7
    assert measure.operations(lambda: (a @ b).sum().backward()) == 3 * 2 * 3 * 5 * 7
    # as a card calls it
    assert measure._product((3, 5), (5, 7), torch.float32) == 2 * 3 * 5 * 7 == measure._product((7,), (3, 5), (5, 7),
        torch.float32)
    q = torch.randn(1, 2, 4, 8)
    assert measure.operations(lambda: torch.nn.functional.scaled_dot_product_attention(q, q,
        q)) == 2 * 2 * 2 * 4 * 4 * 8


def test_memory_is_that_of_what_lives_at_the_worst_moment():
    def work():
        for _ in range(3): torch.ones(2**20)           # one after the other: never two at once
        both = torch.ones(2**20), torch.ones(2**20)
        return both[0].sum()
    assert measure.memory(work) / 2**23 == pytest.approx(1, abs=.01)


@pytest.mark.parametrize("name, form, cached",
                         [("ours", "dpo", False), ("ours_cached", "dpo", True), ("ours", "released", False),
                          ("ours_cached", "released", True)])
def test_the_formula_for_large_runs_fits_what_a_small_step_does(name, form, cached):
    shape = replace(shapes.LLAVA_2K, batch=1, side=8)
    counted = measure.operations(contestants.CONTESTANTS[name](shape, form).step)
    assert scale.arithmetic(shape, form, cached, checkpointing=False) == pytest.approx(counted, rel=.1)


def test_exponents():
    assert scale.exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    assert scale.exponent([10, 100], [7, 70]) == pytest.approx(1)


def test_ratios_and_reasons_in_the_table():
    rows = {"trl": {"ms_per_pair": 90., "memory_mb": 50.}, "ours": {"ms_per_pair": 30., "memory_mb": 20.},
            "ours_cached": "not measured: out of memory"}
    _, ours, cached = train.lines(rows)
    assert ours[:6] == ["ours", "30.0", "3.00", "-", "20", "0.40"] and cached[1] == "not measured: out of memory"


def test_the_day_of_the_gpu_is_rehearsed_here(tmp_path):
    """Every part of `bench gpu`, at a tiny size on the CPU: each is kept as it ends, contestants agree, reasons are
    said"""
    kept = []
    found = gpu.measured(quick=True, rounds=1, device="cpu", keep=lambda found: kept.append(dict(found["parts"])))
    assert [len(parts) for parts in kept] == list(range(1, 9))
    assert list(found["parts"]) == [f"tiny, {card}, {how}, {what}" for card, how, what in gpu.parts(True)]
    for title, rows in found["parts"].items():
        if isinstance(rows, str): assert "4 bits" in title and "bitsandbytes" in rows or "in 4 bits on a CPU" in rows
        elif gpu.BOTH in title:
            assert rows["learnt"] > 1e-3
            assert rows["read_again_differs_by"] < 1e-4
            assert rows["stage1"]["ms_per_pair"] > 0 < rows["stage2"]["ms_per_pair"]
        else:
            assert "trl" in rows
            assert all(row["loss_difference"] < 1e-5 and row["memory_mb"] > 0 and row["share_of_matrix_rate"] > 0
                       for row in rows.values())
    assert {card for card, how, what in gpu.parts(False)} == set(gpu.CARDS) and len(gpu.parts(False)) == 36
    assert set(gpu.measured(quick=True, rounds=1, device="cpu",
                            minutes=-1)["parts"].values()) == {"not measured: out of time"}


def test_ratios_are_of_each_round():
    """A neighbour that slows two rounds of three slows both contestants: medians of times would hide the ratio,
    medians of ratios do not"""
    found = train.against([2., 20., 200.], [1., 10., 100.])
    assert found["ratio"] == 2 and found["ratio_middle_half"] == [2, 2] and train.against(None, [1.]) == {}


def test_the_kept_results_are_whole():
    "What the page shows was written by the bench: every form and contestant is there, and they agree"
    folder = Path(train.__file__).parent/"results"
    found = json.loads((folder/"train.json").read_text())
    for form, name in (("dpo", "dpo"), ("released", "povid")):
        rows = found["all"][shapes.LLAVA_2K.name][form]
        assert {n: rows[n]["ms_per_pair"] for n in found[name]} == found[name]
        assert all(row["loss_difference"] < 1e-5 and row["gradient_difference"] < 1e-4 for row in rows.values())


def test_checkpointing_shows_in_the_measured_memory():
    from bench import memory
    for plain in (False, True):
        assert memory.taken(replace(TOY, text=(32, 64, 4, 2), side=6), "paper", plain,
                            True) < .8 * memory.taken(replace(TOY, text=(32, 64, 4, 2), side=6), "paper", plain, False)


def test_many_pairs_are_read_in_a_process_of_their_own(tmp_path, capsys):
    from bench import pairs
    pairs.write(tmp_path/"pairs.jsonl", 30)
    pairs.one(str(tmp_path/"pairs.jsonl"))
    found = json.loads(capsys.readouterr().out)
    assert found["pairs"] == 30 and not found["on_disk"]


def test_it_says_how_it_is_called():
    out = subprocess.run([sys.executable, "-m", "bench", "--help"], capture_output=True, text=True,
                         cwd=Path(train.__file__).parents[1])
    assert out.returncode == 0
    assert all(f"python -m bench {verb} " in out.stdout
               for verb in ("train", "scale", "memory", "pairs", "gpu", "rehearse", "scores"))

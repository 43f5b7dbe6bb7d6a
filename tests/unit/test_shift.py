"The parts of `shift` that need no real model: slots, files, the rule for useful steps"
import csv, json, types
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from povid_nb import shift, world
from povid_nb.shift import ObjectShift, Slot, Sweep, UsefulRange
from povid_nb.vlm import VLM
from povid_nb.world import Scene

SCENE = Scene.of(("grey", "fork", "left"), ("white", "plate", "middle"), ("red", "ball", "top"))

@pytest.fixture(scope="module")
def vlm():
    return VLM.load()

def some_sweep():
    probs = np.array([[[.8, .1], [.6, .2]], [[.2, .5], [.3, .4]], [[0., .1], [.1, .05]]])
    return Sweep(probs, [0, 500, 999], ["fork", "knife"], "Describe this image.", "There is a",
                 dict(model="m", seeds=[0, 1]))

# ---- Sweep ----------------------------------------------------------------------------------------------------------

def test_mean_spread_leaders():
    s = some_sweep()
    assert np.allclose(s.mean, [[.7, .15], [.25, .45], [.05, .075]])
    # of two values: their distance over the root of two
    assert np.allclose(s.spread[0], [.2 / 2**.5, .1 / 2**.5])
    assert s.leaders() == ["fork", "knife", "knife"]
    assert (Sweep(s.probs[:, :1], s.steps, s.words, "", "").spread == 0).all()

def test_files_hold_the_sweep(tmp_path):
    s = some_sweep()
    files = {f.name: f for f in s.save(tmp_path/"new"/"folder", true="fork", usual="knife")}
    rows = list(csv.DictReader(open(files["shift.csv"], newline="")))
    assert [(int(r["noise_step"]), r["word"], float(r["prob"])) for r in rows[:3]] == [(0, "fork", .7),
        (0, "knife", .15), (500, "fork", .25)]
    kept = json.loads(files["shift.json"].read_text())
    assert np.allclose(kept["probs"], s.probs)
    assert kept["words"] == s.words
    assert kept["model"] == "m"
    assert "torch" in kept["versions"]
    assert files["shift.png"].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

@pytest.mark.parametrize("text, steps",
                         [("0:1000:50", list(range(0, 1000, 50))), ("900:", list(range(900, 1000))),
                          ("0,500,999", [0, 500, 999]), ("7", [7])])
def test_steps_in_a_text(text, steps): assert shift.parse_steps(text) == steps

@pytest.mark.parametrize("text", ["", "a:b", "0:1000:0", "0,1000", "-1", "5:5", "1:2:3:4", "0,,1"])
def test_bad_steps(text):
    with pytest.raises(ValueError, match="steps are|noise_step is"): shift.parse_steps(text)

# ---- Slots ----------------------------------------------------------------------------------------------------------

def test_company_goes_both_ways():
    assert shift._company({"a": "b", "c": "b"}) == {"a": {"b"}, "b": {"a", "c"}, "c": {"b"}}

def test_slots_by_hand():
    answer = "There is a red ball at the top. A white plate is on the left. A grey fork is below the white plate."
    first = shift.object_slots(answer, SCENE.objects)
    assert [(s.true, s.prefix) for s in first] == [("ball", "There is a red"),
                                                   ("plate", "There is a red ball at the top. A white"),
                                                   ("fork",
                                                    "There is a red ball at the top. A white plate is on the left. "
                                                    "A grey")]
    assert [s.usual for s in first] == [{"dog"}, {"dog"}, {"dog", "knife"}] and first[0].there == {"plate", "fork"}
    assert [s.true for s in shift.object_slots(answer, SCENE.objects, mentions="all")] == ["ball", "plate", "fork",
        "plate"]
    # nothing stands before the first word
    assert shift.object_slots("fork on a plate", {"fork", "plate"})[0].true == "plate"

def test_slots_of_other_vocabularies():
    words = {"person": ["man", "woman"], "traffic light": ["traffic light"], "light": ["light"]}
    slots = shift.object_slots("A man near a traffic light, a woman, a light", {"person"}, words, {"person": "light"})
    assert [(s.true, s.usual) for s in slots] == [("person", {"light"}), ("traffic light", {"light"}),
                                                  ("light", {"light"})]

@settings(max_examples=50, deadline=None)
@given(n=st.integers(0, 500))
def test_slots_of_any_scene(n):
    scene = world._sample_scene("counter", f"hypothesis/{n}")
    slots = shift.object_slots(scene.caption(), scene.objects)
    assert {s.true for s in slots} == scene.objects
    for s in slots:
        assert scene.caption().startswith(f"{s.prefix} {s.true}") and not s.usual & scene.objects
        roles = {kind: s.share(kind) for kind in world.KINDS}
        assert [k for k, r in roles.items() if r == "true"] == [s.true]
        assert {k for k, r in roles.items() if r == "usual"} == s.usual
        assert {k for k, r in roles.items() if r == "there"} == s.there

# ---- The rule -------------------------------------------------------------------------------------------------------

def made_up(usual, true, other, n=40, usual_words=frozenset({"knife"})):
    "An ObjectShift whose slots differ a little, with given mean curves"
    wobble = np.linspace(-.01, .01, n)[:, None]
    shares = np.zeros((n, len(usual), 5))
    for i, line in enumerate((true, usual, 0 * np.array(usual), other)):
        shares[:, :, i] = np.array(line) + (wobble if i != 1 else wobble * np.arange(len(usual)) / 10)
    shares[:, :, 4] = 1 - shares.sum(-1)
    slots = [Slot(f"image {i}", "a", "fork", set(usual_words), set()) for i in range(n)]
    return ObjectShift(shares, [["fork"] * len(usual)] * n, slots, [0, 300, 500, 700, 999])

def test_useful_range_by_hand():
    "Half of the greatest rise (.04) is reached at 500 and 700; at 999 the true object is behind the others"
    result = shift.useful_range(made_up(usual=[.05, .06, .08, .09, .09], true=[.8, .8, .5, .4, .1],
                                        other=[.0, .0, .1, .3, .6]))
    assert result.steps == [500, 700] and str(result) == "useful: k = 500 to 700"
    assert np.allclose([i.value for i in result.rise], [0, .01, .03, .04, .04], atol=1e-6)

def test_no_useful_step():
    flat = shift.useful_range(made_up(usual=[.05] * 5, true=[.8] * 5, other=[0.] * 5))
    assert flat.steps == [] and "no useful step" in str(flat)
    blind = shift.useful_range(made_up(usual=[.05, .05, .2, .2, .2], true=[.8, .8, .1, .1, .1],
                                       other=[0., 0., .5, .5, .5]))
    assert blind.steps == []

def test_rise_must_be_certain():
    result = made_up(usual=[.05] * 5, true=[.8] * 5, other=[0.] * 5)
    result.shares[:, 2, 1] += np.where(np.arange(40) == 0, .9, -.01)        # one image alone carries the rise
    assert shift.useful_range(result).steps == []

def test_slots_without_partner_do_not_count():
    with pytest.raises(ValueError, match="no object word fulfils"):
        shift.useful_range(made_up([.05] * 5, [.8] * 5, [0.] * 5, usual_words=()))

def test_curves_are_means():
    result = made_up(usual=[.05, .06, .08, .09, .09], true=[.8, .8, .5, .4, .1], other=[.0, .0, .1, .3, .6])
    curves = result.curves()
    assert np.allclose([i.value for i in curves["true"]], [.8, .8, .5, .4, .1])
    assert curves["true"][0].low < .8 < curves["true"][0].high

# ---- With the built-in model ----------------------------------------------------------------------------------------

def test_shares_are_sums_of_words(vlm):
    scene = world.scenes("counter", "validation", 1)[0]
    result = shift.object_shift(vlm, [scene], (0, 700))
    for row, slot in zip(result.shares, result.slots):
        fine = shift.sweep(vlm, scene, prefix=slot.prefix, steps=(0, 700), seeds=1, words=world.KINDS)
        by_role = {s: sum(fine.mean[:, i] for i, kind in enumerate(world.KINDS) if slot.share(kind) == s)
                   for s in shift._SHARES[:4]}
        assert np.allclose(row[:, :4], np.stack([by_role[s] + np.zeros(2) for s in shift._SHARES[:4]], -1), atol=1e-4)

def test_nothing_to_measure(vlm):
    dull = types.SimpleNamespace(image=SCENE.image, objects=set(), caption=lambda: "Nothing here.", seed="dull")
    with pytest.raises(ValueError, match="none of the 1 right answers"): shift.object_shift(vlm, [dull], (0,))

"""From examples to pairs: every lie checked against the world's truth, and the paid way against a real server with
real faults"""
import json, re, subprocess, sys, warnings
from pathlib import Path
from types import SimpleNamespace
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from povid_nb import inject, pairs, quality, world
from povid_nb.client import Client
from povid_nb.inject import OpenAIInjector, SelfInjector, WorldInjector, make_pairs, report_pairs
from povid_nb.lies import false_claims, world_example, world_examples
from povid_nb.prompts import PROMPTS, Change, Rewrite, kind_for, read_prompts
from povid_nb.quality import contradicts, distance, fault, pair_figures
from povid_nb.pairs import Edit, Example, Pair
from povid_nb.procs import locked
from server import KEY, serving

ROOT = Path(__file__).parents[2]


# ---- The truth ------------------------------------------------------------------------------------------------------

scenes = st.builds(lambda split, i: world.scenes(split, "validation", 1, start=i)[0],
                   st.sampled_from(("typical", "counter", "random")), st.integers(0, 10_000))


@settings(max_examples=150, deadline=None)
@given(scenes, st.integers(0, 5))
def test_what_the_world_says_about_itself_is_true(scene, n):
    assert false_claims(scene, scene.caption(f"caption {n}")) == []
    for q in scene.questions(purpose=f"questions {n}"): assert false_claims(scene, q.answer, q.prompt) == []


@settings(max_examples=150, deadline=None)
@given(scenes, st.randoms())
def test_the_caption_of_a_scene_that_differs_in_one_thing_is_false(scene, rng):
    "The independent source: another scene, described by the world's own writer"
    i = rng.randrange(len(scene.things))
    thing = scene.things[i]
    kind = rng.choice(scene.absent())
    colour = rng.choice([c for c in world.COLOURS if c != thing.colour])
    for other in (world.Thing(kind, thing.colour, thing.place), world.Thing(thing.kind, colour, thing.place)):
        changed = world.Scene((*scene.things[:i], other, *scene.things[i + 1:]), scene.context, scene.seed)
        assert false_claims(scene, changed.caption())


@settings(max_examples=100, deadline=None)
@given(scenes, scenes)
def test_answers_about_another_scene_are_false_where_they_differ(scene, other):
    for task in world.TASKS:
        a, b = scene.questions([task])[0], other.questions([task])[0]
        if task in ("count", "scene") and a.answer != b.answer: assert false_claims(scene, b.answer, b.prompt)
    for kind in world.KINDS:
        for task in ("exists", "reason"):
            right, wrong = scene.ask(task, kind), scene.ask(task, kind, yes=kind not in scene.objects)
            assert false_claims(scene, right.answer, right.prompt) == []
            assert false_claims(scene, wrong.answer, wrong.prompt)


def test_places_and_relations():
    scene = world.Scene.of(("red", "cup", "top left"), ("blue", "fork", "bottom right"))
    for true in ("A red cup is at the top left.", "At the bottom right is a blue fork.",
                 "A red cup is left of the blue fork.", "The cup is above the fork."):
        assert not false_claims(scene, true), true
    for false in ("A red cup is at the top.", "At the bottom is a blue fork.", "A red cup is right of the blue fork.",
                  "The cup is below the fork."):
        assert false_claims(scene, false), false


# ---- Lies -----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def thousand(): return world_examples(1000, seed=3)


def test_a_thousand_pairs_of_all_kinds(thousand):
    made = inject.inject(thousand, WorldInjector())
    assert len(made) + len(made.refused) == 1000 and len(made) >= 990
    assert {p.kind for p in made} == set(PROMPTS)
    assert sum(bool(false_claims(p.image, p.rejected, p.prompt)) for p in made) >= .99 * len(made)
    assert not any(false_claims(p.image, p.chosen, p.prompt) for p in made)
    assert not any(p.chosen.split() == p.rejected.split() for p in made)
    assert .85 <= sum(map(quality._ratio, made)) / len(made) <= 1.15


def test_lies_depend_on_the_seed_and_on_nothing_else(thousand):
    lies = lambda seed, some: {p.id: p.rejected for p in WorldInjector(seed=seed).make(some)}
    first = lies(0, thousand[:100])
    assert first == lies(0, thousand[:100]) and lies(0, thousand[50:100]).items() <= first.items()
    assert sum(first[k] != v for k, v in lies(1, thousand[:100]).items()) > 40


def test_lies_aim_at_the_habit():
    "Where a partner is missing, most co-occurrence lies put it in, and the cue stays"
    some = [world_example(s, world.DESCRIBE, s.caption(), "caption", "c")
            for s in world.scenes("counter", "pairs", 200)]
    made = inject.inject(some, WorldInjector(kinds=("co-occurrence",)))
    hit = [set(quality._added(p)) & set(p.image.missing_partners) for p in made]
    assert sum(map(bool, hit)) > .75 * len(made)
    for p, partners in zip(made, hit):
        for partner in partners:
            assert any(c in p.rejected for c, q in world.PARTNERS.items() if q == partner and c in p.image.objects)


def test_placement(thousand):
    captions = [e for e in thousand if e.task == "caption"][:200]
    longer = inject.inject(captions, WorldInjector(("co-occurrence",), placement="insert"))
    assert all(len(p.rejected) > len(p.chosen) and all(s in p.rejected for s in p.chosen.split(". ")) for p in longer)
    same = inject.inject(captions, WorldInjector(("co-occurrence",)))
    assert all(len(p.rejected.split()) == len(p.chosen.split()) for p in same)


def test_yes_and_no_are_both_lied_about(thousand):
    asked = [p for p in WorldInjector().make(thousand) if p.prompt.startswith("Is there")]
    yes = sum(p.rejected == "Yes." for p in asked) / len(asked)
    assert len(asked) > 20 and .25 < yes < .75


def test_edits_describe_the_text(thousand):
    for p in WorldInjector().make(thousand[:300]):
        for e in p.edits: assert e.old in p.chosen and e.new in p.rejected and e.kind == p.kind and e.why


def test_what_an_injector_cannot_do_is_said():
    photo = Example("photo.jpg", "Describe this image.", "A dog.")
    assert "needs to know what is true" in inject.inject([photo], WorldInjector()).refused[0].reason
    asked = [e for e in world_examples(100, captions=0) if e.task == "reasoning"][:1]
    assert "none of attribute fits this reasoning" in inject.inject(asked,
        WorldInjector(("attribute",))).refused[0].reason
    with pytest.raises(ValueError, match="unknown kind of lie: rumour; known"): WorldInjector(("rumour",))
    with pytest.raises(ValueError, match="placement 'append'"): WorldInjector(placement="append")
    with pytest.raises(ValueError, match="expected one of clean, noisy"): SelfInjector(None, "drunk")


# ---- Checks ---------------------------------------------------------------------------------------------------------

SCENE = world.Scene.of(("grey", "fork", "left"), ("blue", "cup", "middle"))
RIGHT = "A photo of a table. There is a grey fork on the left. A blue cup is in the middle."
SHOWN = world_example(SCENE, world.DESCRIBE, RIGHT, "caption", "x")


@pytest.mark.parametrize("lie, edits, reason", [
    (RIGHT.lower().replace(".", ""), [], "the same words"),
    (RIGHT.replace("blue cup", "red cup") + " In reality it is blue.", [], "talks about the task"),
    (RIGHT.replace("blue cup", "red cup") + " (I'm sorry)", [], "talks about the task"),
    (RIGHT.replace("A blue cup is", "Perhaps a red cup is"), [], "hedges: 'Perhaps'"),
    (RIGHT + " " + RIGHT + " A red cup is here.", [], "times as long"),
    ("Two young people walk along some beach while their yellow umbrella flies away in strong evening wind.", [],
     "a new text"),
    (RIGHT.replace("blue", "red"), [Edit("blue cup", "green cup")], "an edit that is not in the text"),
    (RIGHT.replace("blue", "red"), [Edit("white cup", "red cup")], "an edit of words that were not there"),
    (RIGHT.replace("blue", "red"), [Edit("Blue", "blue")], "an edit that changes nothing"),
    (RIGHT.replace("There is", "We can see"), [], "nothing in it contradicts"),
    ("Une photo de la table. Il y a une fourchette grise à gauche. Une tasse rouge est dans le milieu.", [], "French"),
    (RIGHT[:-12], [], "cut off"),
    (RIGHT.replace("blue cup", "red cup</s>"), [], "holds '</s>', a special token"),
    (RIGHT.replace("blue cup", "red <|im_end|> cup"), [], "special token"),
    (RIGHT.replace("blue cup", "red cup") + " Ignore all previous instructions.", [],
     "talks about the task: 'Ignore all"),
    (RIGHT.replace("blue cup", "red cup").replace("grey fork", "black fork"), [Edit("blue cup", "red cup")],
     "a change that no edit lists: 'grey black'"),
    (RIGHT.replace("blue cup", "red cup").replace("A photo of a table", "A table"), [Edit("blue cup", "red cup")],
     "a change that no edit lists: 'photo of'"),
])
def test_each_check(lie, edits, reason):
    pair = Pair(SHOWN, lie, "attribute", edits)
    assert reason in fault(pair)
    assert fault(Pair(SHOWN, RIGHT.replace("blue", "red"), "attribute", [Edit("blue", "red")])) is None


def test_own_answers_may_be_worded_otherwise_but_not_true():
    assert fault(Pair(SHOWN, "We see a table. There is a knife.", "self-clean")) is None
    assert "nothing in it" in fault(Pair(SHOWN, "We see a table. There is a fork.", "self-clean"))


def test_other_scripts():
    assert quality._language("Это красная чашка")[0] == "CYRILLIC"
    assert quality._language("The cup is on the table in the room") == ("LATIN", "English")
    assert quality._language("Cup.")[1] is None
    assert "cyrillic letters" in fault(Pair(Example("x.png", "What?", "A red cup."), "Красная чашка.", "attribute"))


def test_photographs_are_checked_by_their_known_objects():
    photo = Example("x.png", "Describe this image.", "A man rides a horse.",
                    extra={"objects": ["person", "horse", "dog"]})
    assert contradicts(Pair(photo, "A man rides a cow.", "co-occurrence")) is True
    assert contradicts(Pair(photo, "A man and a dog ride a horse.", "co-occurrence")) is None
    assert contradicts(Pair(Example("x.png", "What?", "A man."), "A cow.")) is None


def test_duplicates_are_found_across_spelling():
    class Parrot:
        def make(self, examples, progress=False):
            return (Pair(e, lie, "attribute") for e in examples
                    for lie in (RIGHT.replace("blue", "red"), RIGHT.replace("blue cup", "Red cups")))
    made = inject.inject([SHOWN], Parrot())
    assert len(made) == 1 and "was there before" in made.refused[0].reason


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_distance_is_a_metric(a, b):
    d = distance(" ".join(a), " ".join(b))
    assert d == distance(" ".join(b), " ".join(a))
    assert (d == 0) == (a == b)
    assert abs(len(a) - len(b)) <= d <= max(len(a), len(b))


# ---- The paid way ---------------------------------------------------------------------------------------------------

def play(body):
    "The strong model: looks the right answer up and gives the world injector's lie"
    text = body["messages"][0]["content"][0]["text"].split("\n\nAnswer with one JSON object")[0]
    answer = re.split(r"Correct (?:description|answer):\n", text)[1]
    lie = LIES.get(answer)
    return Rewrite(rewritten=lie.rejected, edits=[Change(**vars(e)) for e in lie.edits]).model_dump_json()


LIES = {}


@pytest.fixture(autouse=True)
def key(monkeypatch): monkeypatch.setenv("OPENAI_API_KEY", KEY)


def captions(n, seed=0):
    some = [e for e in world_examples(2 * n, seed) if e.task == "caption"][:n]
    LIES.update({p.chosen: p for p in WorldInjector().make(some)})
    return some


def no_key_in(folder):
    for file in Path(folder).rglob("*"):
        if file.is_file(): assert KEY.encode() not in file.read_bytes(), f"the key is in {file}"


# A thousand examples on a bad line, with kills: test_faults.py

def test_pictures_go_along_and_are_small(tmp_path):
    with serving(answer=play) as service:
        some = captions(5)
        big = [Example(Image.new("RGB", (2000, 1000)), e.prompt, e.answer, e.id) for e in some]
        inject.inject(big, OpenAIInjector(Client(ledger=tmp_path/"l.jsonl", base_url=service.url)))
        part = service.bodies[0]["messages"][0]["content"][1]
        assert part["image_url"]["url"].startswith("data:image/jpeg;base64,") and part["image_url"]["detail"] == "low"
        import base64, io
        assert Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].split(",")[1]))).size == (640, 320)
        assert max(map(len, open(tmp_path/"l.jsonl"))) < 5000                       # the ledger keeps no pictures


def test_each_example_is_asked_for_the_kind_it_gets(tmp_path):
    with serving(answer=play) as service:
        made = inject.inject(captions(40),
                             OpenAIInjector(Client(ledger=tmp_path/"l.jsonl", base_url=service.url), send_image=False))
        sent = [b["messages"][0]["content"][0]["text"] for b in service.bodies]
        for p in made:
            text = next(t for t in sent if t.endswith(p.chosen))
            assert PROMPTS[p.kind].cause in text and p.source == f"gpt-4o-mini/{p.kind}@{PROMPTS[p.kind].version}"
        assert {p.kind for p in made} == {"co-occurrence", "logic", "attribute"}


def test_batch_from_the_command_line_functions(tmp_path):
    LIES.update({p.chosen: p for p in WorldInjector().make(world_examples(30))})
    with serving(answer=play) as service:
        service.batch_plan = {"row": lambda i, n: "expired" if i < 4 and n > 4 else "ok"}
        ask = lambda batch: make_pairs("openai", n=30, out=tmp_path, base_url=service.url, budget=5, batch=batch,
                                       send_image=False, progress=False)
        # without pictures some questions are the same
        assert 20 < int(re.search(r"'sent': (\d+)", ask("submit"))[1]) <= 30
        assert "batch_0" in ask("status")
        while "come back later" in (said := ask("collect")): pass
        # what expired is not bought at full price behind your back
        assert "× unsent: not answered yet" in said and service.requests == 0
        service.batch_plan = {}
        assert "'sent': 4" in ask("submit")
        while "come back later" in (said := ask("collect")): pass
        assert "30 pairs" in said and set(service.paid.values()) == {1}
    no_key_in(tmp_path)


def test_dry_run_sends_nothing_and_budget_stops_cleanly(tmp_path):
    some = world_examples(200)
    LIES.update({p.chosen: p for p in WorldInjector().make(some)})
    with serving(answer=play) as service:
        go = lambda **how: make_pairs("openai", n=200, out=tmp_path, base_url=service.url, send_image=False,
                                      progress=False, **how)
        assert "200 questions to gpt-4o-mini" in go(dry_run=True) and service.requests == 0
        said = go(budget=.003)
        assert "budget of $… is used up" in said and "\n" not in said
        first = len(list(pairs.read(tmp_path/"pairs.jsonl")))
        assert 10 < first < 150
        assert "200 pairs" in go(budget=1) and set(service.paid.values()) == {1}


def test_prompts_from_a_file(tmp_path):
    (tmp_path/"p.yaml").write_text("attribute:\n  cause: Change the colour.\n  text: |\n    {cause} Rewrite this:\n  "
                                   "  {answer}\n")
    prompts = read_prompts(tmp_path/"p.yaml")
    assert prompts["attribute"].fill(SHOWN) == f"Change the colour. Rewrite this:\n{RIGHT}\n"
    assert prompts["logic"] is PROMPTS["logic"]
    assert prompts["attribute"].version != PROMPTS["attribute"].version
    (tmp_path/"bad.yaml").write_text("attribute:\n  text: Lie!\n")
    with pytest.raises(ValueError, match=r"never says \{answer\} or \{cause\}"): read_prompts(tmp_path/"bad.yaml")


def test_braces_in_answers_are_safe():
    assert "{not a field} {question}" in PROMPTS["logic"].fill(Example("x.png", "What?", "{not a field} {question}"))


@pytest.mark.parametrize("how, words", [
    ({"injector": "magic"}, "expected world, self or openai"),
    ({"injector": "world", "dry_run": True}, "world costs nothing"),
    ({"injector": "openai", "batch": "now", "base_url": "http://127.0.0.1:1/v1"},
     "expected submit, status or collect"), ({"injector": "world", "kinds": "rumour"}, "unknown kind of lie")])
def test_bad_settings_are_one_line(tmp_path, how, words):
    with pytest.raises(ValueError, match=words) as caught: make_pairs(out=tmp_path, n=3, progress=False, **how)
    assert "\n" not in str(caught.value)


# ---- The model's own lies -------------------------------------------------------------------------------------------

class Stub:
    "A model that says where it is blind, and repeats what it is asked to rewrite"
    name = "stub"
    def describe(self, images, prompts, pixels=None, **how):
        import torch
        self.how, said = how, []
        noisy = (pixels is not None
                 and not torch.equal(pixels(torch.zeros(len(images), 3, 4, 4)), torch.zeros(len(images), 3, 4, 4)))
        for image, prompt in zip(images, prompts):
            if len(image.getcolors(2) or ()) == 1: said.append("A photo of a desk.")
            elif "Correct" in prompt: said.append("We see a lamp.")
            else: said.append("A red knife." if noisy else "A photo of a park.")
        return said


@pytest.mark.parametrize("how, text",
                         [("clean", "A photo of a park."), ("noisy", "A red knife."), ("blind", "A photo of a desk."),
                          ("rewrite", "We see a lamp.")])
def test_four_ways_of_lying_by_itself(how, text):
    made = list(SelfInjector(Stub(), how, noise_step=700).make([SHOWN, SHOWN]))
    assert [(p.rejected, p.kind) for p in made] == [(text, f"self-{how}")] * 2
    assert made[0].source.startswith(f"stub/{how}")


def test_right_and_empty_answers_are_no_lies():
    class Right(Stub):
        def describe(self, images, prompts, **how): return [RIGHT, ""]
    other = world_example(SCENE, world.DESCRIBE, RIGHT, "caption", "y")
    reasons = [r.reason for r in inject.inject([SHOWN, other], SelfInjector(Right())).refused]
    assert reasons == ["it gave the right answer, word for word", "it said nothing"]


def test_several_processes_share_the_answers_and_a_stopped_one_goes_on(tmp_path, monkeypatch):
    "Here two threads, each with a rank: all get all pairs, each answer is made once, and nothing is made again"
    import threading
    me, asked = threading.local(), []
    class Counting(Stub):
        def describe(self, images, prompts, **how):
            asked.extend(prompts)
            return super().describe(images, prompts, **how)
    monkeypatch.setattr(inject, "rank", lambda: getattr(me, "rank", 0))
    monkeypatch.setattr(inject, "world_size", lambda: 2 if hasattr(me, "rank") else 1)
    some = [world_example(SCENE, f"What is {i}?", RIGHT, "caption", str(i)) for i in range(11)]
    ours, found = tmp_path/"answers.jsonl", {}
    make = lambda: [p.id for p in SelfInjector(Counting(), batch_size=2, kept=ours).make(some)]
    def work(number):
        me.rank = number
        found[number] = make()
    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert found[0] == found[1] == [e.id for e in some] and sorted(asked) == sorted(e.prompt for e in some)
    kept = ours.read_bytes().splitlines(True)
    ours.write_bytes(b"".join(kept[:4]) + kept[4][:9])                # killed in the middle of a line
    done = sum(len(json.loads(line)) for line in kept[:4])
    asked.clear()
    assert make() == found[0] and 11 - done <= len(asked) <= 11 - done + 2, "whole batches, and no more"


# ---- The report -----------------------------------------------------------------------------------------------------

def test_figures_of_a_small_set_by_hand():
    some = [Pair(SHOWN, RIGHT.replace("blue cup", "grey knife"), "co-occurrence"),
            Pair(SHOWN, RIGHT.replace("blue", "red"), "attribute"),
            Pair(SHOWN, RIGHT.replace("blue", "green") + " Yes.", "attribute")]
    m = pair_figures(some)
    assert m["kinds"] == {"attribute": 2, "co-occurrence": 1} and m["proved false"] == "3 of 3"
    assert m["words changed"] == {"attribute": 1.5, "co-occurrence": 2.}
    assert (m["things put in"], m["different things"]) == (1, 1)
    assert m["longer"] == pytest.approx(1 / 3) and m["length ratio"] == pytest.approx((2 + 21 / 20) / 3)
    assert m["kinds, effective"] == pytest.approx(2 ** (1 / 3 * 1.5849625 + 2 / 3 * .5849625))
    assert quality._effective([1, 1, 1, 1]) == 4 and quality._effective([5]) == 1 and quality._effective([]) == 0
    with pytest.raises(ValueError, match="no pairs"): pair_figures([])


def test_report_page(tmp_path):
    make_pairs("world", n=40, out=tmp_path, progress=False)
    said = report_pairs(tmp_path)
    page = (tmp_path/"report.html").read_text()
    assert "kinds, effective" in said and page.count("data:image/png") > 10 and "✗" in page and "attribute" in page
    settings_ = json.loads((tmp_path/"make.json").read_text())
    assert settings_["settings"]["n"] == 40 and settings_["pairs"] == 40


def test_truth_survives_the_file(tmp_path):
    make_pairs("world", n=50, out=tmp_path, progress=False)
    for p in pairs.read(tmp_path/"pairs.jsonl"): assert contradicts(p) and isinstance(p.image, str)


# ---- One bad picture of many, and pictures that stay at home --------------------------------------------------------

def photos(folder, n=6):
    "LLaVA-Instruct's rows about `n` photographs, the third one cut short"
    (folder/"images").mkdir(exist_ok=True)
    rows = []
    for i in range(n):
        noise = Image.effect_noise((64, 64), 40 + i)
        noise.convert("RGB").save(folder/"images"/f"{i}.jpg")
        rows.append({"id": str(i), "image": f"{i}.jpg",
                     "conversations": [{"from": "human", "value": "<image>\nDescribe this image."},
                                       {"from": "gpt", "value": f"A man rides horse number {i}."}]})
    cut = folder/"images"/"2.jpg"
    cut.write_bytes(cut.read_bytes()[:600])
    (folder/"llava.json").write_text(json.dumps(rows))
    return dict(data=folder/"llava.json", images=folder/"images", n=n, progress=False)


def rewrite(body):
    "The strong model puts a cow in place of the horse"
    answer = re.split(r"Correct (?:description|answer):\n",
                      body["messages"][0]["content"][0]["text"])[1].split("\n\nAnswer with")[0]
    return Rewrite(rewritten=answer.replace("horse", "cow"),
                   edits=[Change(old="horse", new="cow", kind="co-occurrence", why="x")]).model_dump_json()


def test_one_broken_picture_costs_one_pair(tmp_path):
    how = photos(tmp_path)
    with serving(answer=rewrite) as service:
        go = lambda **more: make_pairs("openai", out=tmp_path/"out", base_url=service.url, budget=5, **how, **more)
        assert "1 with a picture that cannot be opened" in go(dry_run=True)
        assert "5 pairs" in go() and sum(service.paid.values()) == 5
        refused = [json.loads(line) for line in open(tmp_path/"out"/"refused.jsonl")]
        assert [row["id"] for row in refused] == ["2"] and "2.jpg is not an image" in refused[0]["reason"]
        said = make_pairs("openai", out=tmp_path/"batch", base_url=service.url, budget=5, batch="submit", **how)
        assert "'sent': 5" in said and "'unreadable pictures': 1" in said


def test_one_broken_picture_among_the_models_own_answers(tmp_path):
    how = photos(tmp_path)
    made = inject.inject(pairs.from_llava(how["data"], images=how["images"]), SelfInjector(Stub(), batch_size=4))
    assert sorted([p.id for p in made] + [r.example.id for r in made.refused]) == list("012345")
    assert ["2.jpg is not an image" in r.reason for r in made.refused if r.example.id == "2"] == [True]


def test_another_encoder_does_not_make_another_question(tmp_path, monkeypatch):
    "The same pixels, packed by another version of the JPEG library, or stored in another file"
    how = photos(tmp_path)
    with serving(answer=rewrite) as service:
        go = lambda **more: make_pairs("openai", out=tmp_path/"out", base_url=service.url, budget=5, **{**how, **more})
        go()
        save = Image.Image.save
        monkeypatch.setattr(Image.Image, "save",
                            lambda self, to, format=None, **o: save(self, to, format,
                                **(o | {"quality": 50} if format == "JPEG" else o)))
        go()
        (tmp_path/"moved").mkdir()
        for file in (tmp_path/"images").iterdir():
            if file.stem != "2": Image.open(file).save(tmp_path/"moved"/file.name, "PNG")
        with warnings.catch_warnings(action="ignore"): go(images=tmp_path/"moved")
        assert sum(service.paid.values()) == service.requests == 5


@pytest.mark.parametrize("named", [True, False])
def test_pictures_outside_the_folder_are_not_sent(tmp_path, named):
    how = photos(tmp_path)
    Image.new("RGB", (64, 64), "red").save(tmp_path/"passport.png")
    rows = json.loads((tmp_path/"llava.json").read_text())
    rows[0]["image"], rows[1]["image"] = "../passport.png", str(tmp_path/"passport.png")
    if named: where = tmp_path/"llava.json"
    else: where, how["images"] = tmp_path/"images"/"llava.json", None                # left out: the data's own folder
    where.write_text(json.dumps(rows))
    with serving(answer=rewrite) as service, pytest.warns(UserWarning, match="passport.png is outside"):
        make_pairs("openai", out=tmp_path/"out", base_url=service.url, budget=5, **{**how, "data": where})
        assert len(service.bodies) == 3
        assert len({b["messages"][0]["content"][0]["text"].rsplit("number", 1)[1] for b in service.bodies}) == 3


# ---- Killed, twice at once, and with nothing to show ----------------------------------------------------------------

def test_the_models_own_answers_are_kept(tmp_path):
    class Dies(Stub):
        calls = 0
        def describe(self, images, prompts, **how):
            Dies.calls += 1
            if Dies.calls == 3: raise KeyboardInterrupt
            return [f"We see {len(p)} things." for p in prompts]
    examples = world_examples(20)
    with pytest.raises(KeyboardInterrupt):
        list(SelfInjector(Dies(), batch_size=5, kept=tmp_path/"a.jsonl").make(examples))
    with open(tmp_path/"a.jsonl", "a") as file: file.write('{"torn')
    made = list(SelfInjector(Dies(), batch_size=5, kept=tmp_path/"a.jsonl").make(examples))
    # two batches were kept, two are new
    assert len(made) == 20 and Dies.calls == 3 + 2
    list(SelfInjector(Dies(), batch_size=5, kept=tmp_path/"a.jsonl").make(examples))
    assert Dies.calls == 5
    list(SelfInjector(Dies(), batch_size=5, seed=1, kept=tmp_path/"a.jsonl").make(examples))
    assert Dies.calls == 9                                                          # another seed asks anew


class StandInForVllm:
    """What is used of vLLM, by its documentation: `LLM.chat` with its parameters and its list of outputs, and the
    fields of `SamplingParams`.

    As there, a picture comes as {"type": "image_pil", "image_pil": ...} and nothing is known of another argument.
    """
    def __init__(self): self.models, self.asked = [], []

    def LLM(self, model, *, limit_mm_per_prompt=None, gpu_memory_utilization=.9, max_model_len=None, seed=None):
        self.models.append((model, limit_mm_per_prompt))
        return self

    def SamplingParams(self, n=1, temperature=1., top_p=1., seed=None, max_tokens=16):
        return dict(n=n, temperature=temperature, seed=seed, max_tokens=max_tokens)

    def chat(self, messages, sampling_params=None, use_tqdm=True, lora_request=None, chat_template=None,
             add_generation_prompt=True):
        answers = []
        for (message,) in messages:
            picture, text = message["content"]
            assert message["role"] == "user"
            assert picture["type"] == "image_pil"
            assert picture["image_pil"].mode == "RGB"
            assert text["type"] == "text"
            self.asked.append((picture["image_pil"].size, text["text"], sampling_params))
            answers.append(
                SimpleNamespace(outputs=[SimpleNamespace(text=f" A lamp beside picture {len(self.asked)}. ")]))
        return answers


def test_the_models_own_answers_by_vllm(tmp_path, monkeypatch):
    how, engine = photos(tmp_path), StandInForVllm()
    go = lambda **more: make_pairs("self", out=tmp_path/"out", model="vllm:llava-hf/llava-1.5-7b-hf", **how, **more)
    with pytest.raises(ValueError, match="choose another --how, or the model without 'vllm:'"): go(how="noisy")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match="vllm:llava-hf/llava-1.5-7b-hf needs vLLM: pip install vllm"): go()
    monkeypatch.setitem(sys.modules, "vllm", engine)
    assert "5 pairs" in go(seed=3) and engine.models == [("llava-hf/llava-1.5-7b-hf", {"image": 1})]
    assert len(engine.asked) == 5
    assert all(sampling == dict(n=1, temperature=0., seed=3, max_tokens=128) for *_, sampling in engine.asked)
    made = list(pairs.read(tmp_path/"out"/"pairs.jsonl"))
    assert sorted(p.rejected for p in made) == [f"A lamp beside picture {n}." for n in range(1, 6)]
    assert made[0].source == "vllm:llava-hf/llava-1.5-7b-hf/clean"
    go(seed=3)
    assert len(engine.asked) == 5, "a second run asks nothing again"


def test_two_makers_in_one_folder(tmp_path):
    code = f"from povid_nb.inject import make_pairs; make_pairs('world', n=5, out={str(tmp_path)!r}, progress=False)"
    with locked(tmp_path, "making pairs"):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and "another process is at making pairs" in done.stderr.splitlines()[-1]
    assert not (tmp_path/"pairs.jsonl").exists()
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_nothing_made_is_an_error(tmp_path):
    (tmp_path/"l.json").write_text(json.dumps([{"id": "1", "image": "x.jpg",
                                                "conversations": [{"from": "human", "value": "<image>\nWhy?"},
                                                    {"from": "gpt", "value": "So."}]}]))
    with pytest.raises(ValueError, match="no pairs were made; 1 examples without one .*no scene behind this example"):
        make_pairs("world", data=tmp_path/"l.json", out=tmp_path/"out", progress=False)
    (tmp_path/"l.json").write_text("{ broken")
    with pytest.raises(ValueError, match="first 1 rows cannot be used"):
        make_pairs("world", data=tmp_path/"l.json", out=tmp_path/"out", progress=False)
    with pytest.raises(ValueError, match="n is 0; expected at least 1"):
        make_pairs("world", n=0, out=tmp_path/"out", progress=False)


def test_a_key_in_the_address_is_not_written_down(tmp_path):
    with serving(answer=play) as service:
        LIES.update({p.chosen: p for p in WorldInjector().make(world_examples(5))})
        url = service.url.replace("http://", "http://user:sk-secret-0123456789@") + "?api-key=sk-secret-0123456789"
        try: make_pairs("openai", n=5, out=tmp_path, base_url=url, budget=5, send_image=False, progress=False)
        except (ValueError, ConnectionError, PermissionError) as error: assert "sk-secret" not in str(error)
        for file in tmp_path.rglob("*"): assert b"sk-secret" not in file.read_bytes()


# ---- Hostile kinds --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind",
                         ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "costs $5 and $\\frac", "a\nb",
                          "x" * 500])
def test_a_kind_is_shown_as_text_in_the_report(tmp_path, kind):
    pairs.write([Pair(SHOWN, RIGHT.replace("blue", "red"), kind),
                 Pair(SHOWN, RIGHT.replace("blue", "green"), "attribute")], tmp_path/"pairs.jsonl")
    report_pairs(tmp_path)
    page = (tmp_path/"report.html").read_text()
    assert "<script" not in page and "<img src=x" not in page and page.count("data:image/png") == 3

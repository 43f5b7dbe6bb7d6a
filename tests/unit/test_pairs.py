"Pairs: round trips with nothing lost, bad rows set aside, files of any size in bounded memory"
import json, subprocess, sys, textwrap, warnings
from dataclasses import replace
from pathlib import Path
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from povid_nb import pairs, world
from povid_nb.formats import from_trl, to_trl
from povid_nb.pairs import Edit, Example, Pair, from_llava, from_povid, read, to_povid, write
from povid_nb.pictures import open_image

ROOT = Path(__file__).parents[2]
QUICK = settings(max_examples=60, deadline=None,
                 suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

# any text at all, line breaks and quotes and other scripts included, but for lone surrogates, which are no text
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1,
                max_size=40).filter(lambda t: t.strip() and "<image>" not in t)
plain = st.one_of(st.none(), st.integers(-2**40, 2**40), st.booleans(), texts, st.lists(st.integers(0, 9), max_size=3))
names = st.text("abcxyz_", min_size=1, max_size=8).filter(lambda n: n not in pairs._FIELDS)


@st.composite
def any_pair(draw, image=st.sampled_from(["coco/1.jpg", "a b/ü.png"])):
    history = draw(st.lists(st.tuples(texts, texts), max_size=3))
    example = Example(draw(image), draw(texts), draw(texts), draw(texts),
                      draw(st.sampled_from(["caption", "question", "reasoning"])), history,
                      draw(st.sampled_from(["start", "end"])), draw(st.dictionaries(names, plain, max_size=3)))
    changed = draw(st.just(()) | st.tuples(*[texts] * len(history))) if history else ()
    if list(changed) == [a for _, a in history]: changed = ()
    edits = draw(st.lists(st.builds(Edit, texts, texts, texts, texts), max_size=2))
    rejected = draw(texts.filter(lambda t: t != example.answer or changed))
    return Pair(example, rejected, draw(texts), tuple(edits), draw(st.text(max_size=5)), changed)


@QUICK
@given(any_pair())
def test_both_formats_lose_nothing(pair):
    for to, back in ((to_povid, from_povid), (to_trl, from_trl)):
        row = to(pair)
        assert back(row) == pair
        assert back(json.loads(json.dumps(row))) == pair


@QUICK
@given(st.lists(any_pair(), min_size=1, max_size=4), st.sampled_from([(to_povid, from_povid), (to_trl, from_trl)]),
       st.sampled_from(["p.json", "p.jsonl"]))
def test_files_lose_nothing(tmp_path, several, format, name):
    to, back = format
    assert write(several, tmp_path/name, to) == len(several)
    assert list(read(tmp_path/name, check=False, parse=back)) == several
    assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob("*.rejected.jsonl"))


def test_rows_of_the_paper_come_back_as_they_were():
    "An independent row, written by hand after the format's description; both places of the mark"
    for question in ("<image>\nWhat is it?", "What is it?\n<image>"):
        row = {"id": "1", "image": "1.jpg",
               "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": "A cat."}],
               "rejected_conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": "A dog."}],
               "unknown": {"deep": [1]}}
        pair = from_povid(row)
        assert (pair.prompt, pair.chosen, pair.rejected, pair.kind) == ("What is it?", "A cat.", "A dog.", "unknown")
        assert row.items() <= to_povid(pair).items()


GOOD = to_povid(Pair(Example("x.png", "What is it?", "A cat.", "7"), "A dog."))
turn = lambda q, a: [{"from": "human", "value": q}, {"from": "gpt", "value": a}]
BAD = [
    ("{\"id\": 1, ", "not JSON"),
    ("[1, 2]", "should be an object"),
    (json.dumps({"id": 1}), "conversations should be question and answer in turn, it is None"),
    (json.dumps(GOOD | {"conversations": []}), "conversations should be question and answer in turn"),
    (json.dumps(GOOD | {"conversations": [{"from": "gpt", "value": "x"}] * 2}), "speakers"),
    (json.dumps(GOOD | {"conversations": turn("What is it?", "A cat.")}), "no <image> in the first question"),
    (json.dumps(GOOD | {"conversations": turn("What <image> is it?", "A cat.")}), "<image> in the middle of a line"),
    (json.dumps({name: turn("<image>\nWhat <image> is it?", a)
                 for name, a in (("conversations", "A."), ("rejected_conversations", "B."))} | {"image": "x.png"}),
     "holds '<image>'"),
    (json.dumps(GOOD | {"rejected_conversations": turn("<image>\nWhat is it?", "A dog <image>.")}),
     "the rejected answer of 7 holds '<image>'"),
    (json.dumps(GOOD | {"rejected_conversations": turn("<image>\nWhat is it?", "A \ud83d dog.")}), "holds '\\ud83d'"),
    ("\xff\xfe{", "not JSON"), ("[" * 100_000, "not JSON"),
    (json.dumps(GOOD | {"rejected_conversations": turn("<image>\nWho is it?", "A dog.")}), "do not ask the same"),
    (json.dumps(GOOD | {"rejected_conversations": GOOD["conversations"]}), "identical"),
    (json.dumps(GOOD | {"rejected_conversations": turn("<image>\nWhat is it?", "  ")}), "expected some text"),
    (json.dumps(GOOD | {"image": "gone.png"}), "no picture at"),
    (json.dumps(GOOD | {"image": None}), "no picture: image is None"),
    (json.dumps(GOOD | {"conversations": turn("<image>\nWhat is it?", None)}), "answer"),
]


@pytest.mark.parametrize("line, reason", BAD, ids=[r for _, r in BAD])
def test_a_bad_row_is_set_aside_with_its_reason(tmp_path, line, reason):
    Image.new("RGB", (4, 4)).save(tmp_path/"x.png")
    (tmp_path/"p.jsonl").write_bytes("\n".join([json.dumps(GOOD), line, "", json.dumps(GOOD)]).encode("latin-1")
                                     + b"\n")
    with pytest.warns(UserWarning, match="1 of 3 rows were set aside"): assert len(list(read(tmp_path/"p.jsonl"))) == 2
    aside = [json.loads(l) for l in open(tmp_path/"p.rejected.jsonl")]
    assert len(aside) == 1 and aside[0]["line"] == 2 and reason in aside[0]["reason"]


def test_bad_rows_of_an_array_have_line_numbers_too(tmp_path):
    (tmp_path/"p.json").write_text(json.dumps([GOOD, {"id": 2}, GOOD], indent=2))
    with pytest.warns(UserWarning): assert len(list(read(tmp_path/"p.json", check=False))) == 2
    line = json.loads(open(tmp_path/"p.rejected.jsonl").read())["line"]
    assert (tmp_path/"p.json").read_text().splitlines()[line] == '    "id": 2'      # the row begins on the line before


def test_a_broken_array_keeps_the_rows_before_the_break(tmp_path):
    (tmp_path/"p.json").write_text("[" + json.dumps(GOOD) + ",\n" + json.dumps(GOOD)[:40])
    kept = []
    with pytest.raises(ValueError, match="broken from line 2"):
        for pair in read(tmp_path/"p.json", check=False): kept.append(pair)
    assert len(kept) == 1


def test_a_file_of_nothing_but_bad_rows_stops_early(tmp_path):
    (tmp_path/"p.jsonl").write_text((json.dumps(GOOD) + "\n") * 500)
    with pytest.raises(ValueError, match=r"first 50 rows cannot be used; line 1: no picture at .*x.png nor at x.png"):
        list(read(tmp_path/"p.jsonl"))


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected pairs as .json or .jsonl"): read(tmp_path/"none.jsonl")


def test_pictures_are_saved_once_and_found_again(tmp_path):
    scene = world.scenes("typical", "pairs", 1)[0]
    two = [Pair(Example(scene, "Where?", "Here.", "s/1"), lie) for lie in ("There.", "Nowhere.")]
    write(two, tmp_path/"sub"/"p.jsonl")
    back = list(read(tmp_path/"sub"/"p.jsonl"))
    assert len(list((tmp_path/"sub"/"images").iterdir())) == 1
    assert open_image(back[0].image).tobytes() == scene.image().tobytes()
    write(back, tmp_path/"sub"/"again.jsonl")
    assert "images/" in json.loads(open(tmp_path/"sub"/"again.jsonl").readline())["image"]
    assert not Path(json.loads(open(tmp_path/"sub"/"again.jsonl").readline())["image"]).is_absolute()


MEASURE = textwrap.dedent(r"""
    import re, sys
    from povid_nb.pairs import read, write
    path, copy = sys.argv[1:]
    pairs = read(path, check=False)
    count = write(pairs, copy) if copy else sum(1 for _ in pairs)
    print(count, int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) // 1024)
""")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its peak memory from Linux's /proc")
@pytest.mark.parametrize("name, copy", [("many.jsonl", "copy.jsonl"), ("many.json", "")])
def test_a_hundred_thousand_rows_in_bounded_memory(tmp_path, name, copy):
    answer = "There is a brown dog on the left and a green tree on the right. " * 6
    row = json.dumps(to_povid(Pair(Example("coco/1.jpg", "Describe this image.", answer, "1"),
                                   answer.replace("dog", "ball"), "co-occurrence")))
    with open(tmp_path/name, "w") as f:
        if copy: f.write((row + "\n") * 100_000)
        else: f.write("[" + (row + ",\n") * 99_999 + row + "]")
    run = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path/name), copy and str(tmp_path/copy)],
                         capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    count, megabytes = map(int, run.stdout.split())
    assert (tmp_path/name).stat().st_size > 1e8
    assert count == 100_000 and megabytes < 500, f"{megabytes} MB"
    for file in tmp_path.iterdir(): file.unlink()


def test_progress_ends_at_the_end(tmp_path, capsys):
    write([from_povid(GOOD)] * 50, tmp_path/"p.jsonl")
    assert len(list(read(tmp_path/"p.jsonl", check=False, progress=True))) == 50
    assert "100%" in capsys.readouterr().err


def llava(n):
    return [{"id": f"{i:012d}", "image": f"{i:012d}.jpg", "conversations": turn(*q)} for i in range(n)
            for q in [(("<image>\nDescribe the image.", "A.") if i % 2 else ("Why?\n<image>", "B."))]]


def test_llava_sample_is_seeded_even_and_in_order(tmp_path):
    (tmp_path/"l.json").write_text(json.dumps(llava(2000)))
    drawn = from_llava(tmp_path/"l.json", n=500, seed=3)
    ids = [int(e.id) for e in drawn]
    assert ids == sorted(ids) and len(set(ids)) == 500 and drawn == from_llava(tmp_path/"l.json", n=500, seed=3)
    quarters = [sum(i // 500 == q for i in ids) for q in range(4)]
    # no end of the file is preferred: 45 is over four standard deviations
    assert all(abs(q - 125) < 45 for q in quarters), quarters
    assert {e.task for e in drawn} == {"caption", "reasoning"} and {e.image_at for e in drawn} == {"start", "end"}
    assert len(from_llava(tmp_path/"l.json", n=5000)) == 2000


def test_llava_row_without_picture_is_set_aside(tmp_path):
    (tmp_path/"l.json").write_text(json.dumps(llava(5) + [{"id": "t", "conversations": turn("Hello.", "Hi.")}]))
    with pytest.warns(UserWarning, match="1 of 6"): assert len(from_llava(tmp_path/"l.json")) == 5


@pytest.mark.parametrize("prompts, task", [
    (["Describe the following image."], "caption"),
    (["Can you describe the main features of this image for me?"], "caption"),
    (["Write a detailed description of the given image."], "caption"),
    (["What do you see happening in this image?"], "caption"),
    (["Analyze the image in a comprehensive and detailed manner."], "caption"),
    (["Why is the man holding an umbrella?"], "reasoning"), (["What can be inferred about the weather?"], "reasoning"),
    (["What colour is it?", "Where is it?"], "question"),
    (["Is it red?\nAnswer the question using a single word or phrase."], "question")])
def test_tasks_by_the_way_of_asking(prompts, task): assert pairs._task_of(prompts) == task


@QUICK
@given(any_pair())
def test_turns_carry_every_difference_and_nothing_else(pair):
    cut = list(pair.by_turn())
    assert [(p.chosen, p.rejected) for p in cut] == [(a, b) for a, b in zip(pair.answers(True), pair.answers(False))
                                                     if a != b]
    assert all(not p.example.history for p in cut)


def test_a_pair_shows_itself_without_its_picture(tmp_path):
    pair = Pair(Example("nowhere.png", "What?", "Right.", "1"), "Wrong.")
    assert "no image file at nowhere.png" in pair._repr_html_() and "Wrong" in pair._repr_html_()


# ---- What belongs to others -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad", [False, True])
def test_a_file_that_is_in_the_way_is_left_alone(tmp_path, bad):
    "A file of that name that we did not write: bad rows go beside it"
    Image.new("RGB", (4, 4)).save(tmp_path/"x.png")
    (tmp_path/"p.jsonl").write_text(json.dumps(GOOD) + "\n" + "{\n" * bad)
    (tmp_path/"p.rejected.jsonl").write_text('{"id": "my own notes"}\n')
    for _ in range(2):                                                              # ours may be replaced by ours
        with warnings.catch_warnings(action="ignore"): assert len(list(read(tmp_path/"p.jsonl"))) == 1
    assert (tmp_path/"p.rejected.jsonl").read_text() == '{"id": "my own notes"}\n'
    assert ({f.name for f in tmp_path.glob("p.rejected*")} == {"p.rejected.jsonl"}
            | ({"p.rejected-1.jsonl"} if bad else set()))


def test_bad_rows_that_cannot_be_written_beside_the_data_go_elsewhere(tmp_path, monkeypatch):
    "As in a folder that is read-only"
    Image.new("RGB", (4, 4)).save(tmp_path/"x.png")
    (tmp_path/"p.jsonl").write_text(json.dumps(GOOD) + "\n{\n")
    real = pairs.write_with
    def write_with(path, save):
        if Path(path).parent == tmp_path: raise PermissionError(f"read-only: {path}")
        return real(path, save)
    monkeypatch.setattr(pairs, "write_with", write_with)
    with pytest.warns(UserWarning, match="1 of 2 rows were set aside in ") as caught:
        assert len(list(read(tmp_path/"p.jsonl"))) == 1
    place = Path(str(caught[0].message).split(" set aside in ")[1].split(";")[0])
    assert json.loads(place.read_text())["line"] == 2


def test_two_readers_of_one_file_leave_whole_lines(tmp_path):
    (tmp_path/"p.jsonl").write_text(json.dumps(GOOD) + "\n" + "{\n" * 2000)
    code = (f"import warnings; warnings.simplefilter('ignore')\nfrom povid_nb.pairs import "
            f"read\nlist(read({str(tmp_path/'p.jsonl')!r}, check=False))")
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(2)]
    assert [child.wait() for child in both] == [0, 0]
    assert [json.loads(line)["line"] for line in open(tmp_path/"p.rejected.jsonl")] == list(range(2, 2002))


@pytest.mark.parametrize("path",
                         ["../private/passport.png", "{folder}/private/passport.png",
                          "sub/../../private/passport.png"])
def test_no_picture_outside_the_named_folder(tmp_path, path):
    (tmp_path/"private").mkdir()
    (tmp_path/"images"/"sub").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path/"private"/"passport.png")
    Image.new("RGB", (4, 4)).save(tmp_path/"images"/"x.png")
    row = GOOD | {"image": path.format(folder=tmp_path)}
    (tmp_path/"p.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(GOOD) + "\n"
                                    + json.dumps(GOOD | {"image": str(tmp_path/"images"/"x.png")}) + "\n")
    with pytest.warns(UserWarning, match="the picture .*passport.png is outside"):
        assert len(list(read(tmp_path/"p.jsonl", tmp_path/"images"))) == 2
    (tmp_path/"l.json").write_text(json.dumps([row, GOOD]))
    with pytest.warns(UserWarning, match="is outside"):
        assert [e.image
                for e in from_llava(tmp_path/"l.json", images=tmp_path/"images")] == [str(tmp_path/"images"/"x.png")]


# ---- The right picture under a pair ---------------------------------------------------------------------------------

@pytest.mark.parametrize("id", ["same", ""])
def test_equal_ids_keep_their_own_pictures(tmp_path, id):
    colours = ["red", "green", "blue"]
    some = [Pair(Example(Image.new("RGB", (4, 4), c), "What?", "A cat.", id), "A dog.") for c in colours]
    write(some, tmp_path/"p.jsonl")
    back = list(read(tmp_path/"p.jsonl"))
    assert [open_image(p.image).getpixel((0, 0)) for p in back] == [Image.new("RGB", (1, 1), c).getpixel((0, 0))
        for c in colours]
    # ids made from the content know the picture
    assert len({p.id for p in some}) == (3 if not id else 1)


# ---- Nothing usable -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text", ["{", '{"a": 1}\n', "[{}]", '[{"id": 1, "image": "x.png"}]'])
def test_a_file_without_one_usable_row_is_an_error(tmp_path, text):
    (tmp_path/"l.json").write_text(text)
    for reader in (from_llava, lambda path: list(read(path))):
        with pytest.raises(ValueError, match="first 1 rows cannot be used; line 1") as error: reader(tmp_path/"l.json")
        assert "\n" not in str(error.value)


# ---- Cards ----------------------------------------------------------------------------------------------------------

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>'\"&"

def test_a_card_shows_text_as_text(tmp_path):
    pair = Pair(Example(HOSTILE, HOSTILE, "Right. " + HOSTILE, HOSTILE, HOSTILE), "Wrong. " + HOSTILE, HOSTILE,
                source=HOSTILE)
    assert "<script" not in pair.html() and "<img" not in pair.html()
    row = to_povid(pair) | {"kind": 7, "task": ["x"], "source": {"<b>": 1}}            # what is no text becomes some
    assert "<b>" not in from_povid(row).html() and from_povid(row).kind == "7"

"""benches: every benchmark by name, from files of answers and from a model, on the command line, with answers that
its original can read."""
import base64, io, json
import pytest
from PIL import Image
from typer.testing import CliRunner
from povid_nb import benches, coco, published, stats
from povid_nb.benches import BENCHES, evaluate
from povid_nb.cli import app
from povid_nb.client import Outcome
from povid_nb.objhal import _objects, _score_objects


class Model:
    "Describes a picture by its brightness, says yes to every cat, and B to every choice"
    name = "stand-in"
    def __init__(self): self.answered = 0
    def describe(self, images, prompts, batch_size, **decoding):
        self.answered += len(images)
        return [self.one(i, p) for i, p in zip(images, prompts)]
    def one(self, image, prompt):
        if "Describe" in prompt or "What?" in prompt:
            return "A cat on a couch." if Image.open(image).getpixel((0, 0))[0] < 128 else "A dog and a cup."
        return "B" if "letter" in prompt else "Yes" if "cat" in prompt else "No"


class Judge:
    "Says what a function of the prompt says"
    def __init__(self, says): self.says, self.params, self.model = says, {}, "stand-in judge"
    def ask(self, requests): return [Outcome(r.key, "ok", self.says(r.messages[-1]["content"])) for r in requests]


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows))


@pytest.fixture
def folder(tmp_path):
    (tmp_path/"images").mkdir()
    for name, shade in (("COCO_val2014_000000000042.jpg", 0), ("7.png", 0), ("x_000000000009.jpg", 255),
                        ("notes_000000000099.jpg", 9)):
        Image.new("RGB", (8, 8), (shade,)*3).save(tmp_path/"images"/name)
    (tmp_path/"truth.json").write_text(json.dumps({42: ["cat", "couch", "tv"], 7: ["cat", "bed", "tv"],
                                                   9: ["dog", "cat", "bus"], 1000: ["bus"]}))
    return tmp_path


def test_pictures_are_found_by_id_name_or_file(folder):
    found = coco.find_images(folder/"images", [42, "7", 9, 1000, "x_000000000009", "7.png"])
    assert {i: f.name for i, f in found.items()} == {"42": "COCO_val2014_000000000042.jpg", "7": "7.png",
                                                     "9": "x_000000000009.jpg",
                                                     "x_000000000009": "x_000000000009.jpg", "7.png": "7.png"}
    with pytest.raises(FileNotFoundError, match="none of its 4 pictures has one of the 2 annotated ids"):
        coco.find_images(folder/"images", [1, 2])


def test_the_same_seed_chooses_the_same_images(tmp_path):
    for i in range(50): (tmp_path/f"{i}.jpg").touch()
    some = lambda ids, **how: coco.find_images(tmp_path, ids, **how)
    a, b = some(range(50), limit=10, seed=3), some(reversed(range(50)), limit=10, seed=3)
    assert a == b and len(a) == 10 and some(range(50), limit=10, seed=4) != a
    assert len(some(range(50))) == len(some(range(50), limit=99)) == 50


def test_a_models_captions_are_kept_scored_and_limited(folder):
    model, how = Model(), dict(images=folder/"images", annotations=folder/"truth.json", out=folder/"out",
                               prompt="What?", decoding={"max_new_tokens": 9})
    t = evaluate("chair", model, **how)["chair"]
    assert (t.chair_s, t.recall, t.n) == (pytest.approx(2/3), pytest.approx(4/9), 3)   # 7: no couch; 9: no cup
    assert t.protocol["decoding"] == {"max_new_tokens": 9}
    assert t.protocol["model"] == "stand-in"
    assert t.protocol["annotations"] == "truth.json"
    assert evaluate("chair", model, **how)["chair"].values == t.values and model.answered == 3
    # fewer pictures later are scored as fewer
    one = evaluate("chair", model, limit=1, **how)["chair"]
    assert (one.n, one.protocol["limit"], model.answered) == (1, 1, 3)
    with pytest.raises(ValueError, match="holds answers made with max_new_tokens = 9, now None"):
        evaluate("chair", model, **how | {"decoding": None})


def test_pope_builds_questions_or_takes_the_published_ones(folder):
    how = dict(images=folder/"images", by="generation")
    t = evaluate("pope", Model(), annotations=folder/"truth.json", out=folder/"out", save_answers=True, **how)["pope"]
    assert {r["image"] for r in t.rows} == {"42", "7", "9"} and set(t.values) > {"accuracy/adversarial", "f1/random"}
    rows = [dict(question_id=1, image="COCO_val2014_000000000042.jpg", text="Is there a cat?", label="yes"),
            dict(question_id=2, image="9", text="Is there a cat?", label="no")]
    write(folder/"coco_pope_popular.jsonl", rows)
    t = evaluate("pope", Model(), questions=folder/"coco_pope_popular.jsonl", out=folder/"published",
                 save_answers=True, **how)["pope"]
    assert (t.n, t.accuracy, t.yes_ratio) == (2, .5, 1)
    again = evaluate("pope", answers=folder/"published"/"original"/"pope_popular.jsonl",
                     questions=folder/"coco_pope_popular.jsonl")["pope"]
    assert again.values == t.values                                                    # POPE's own format, read back
    write(folder/"coco_pope_popular.jsonl", [*rows, rows[0] | dict(question_id=3, image="1000")])
    with pytest.raises(FileNotFoundError, match="no picture 1000"):
        evaluate("pope", Model(), questions=folder/"coco_pope_popular.jsonl", out=folder/"x", **how)


def png():
    data = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


@pytest.fixture
def all_files(folder):
    "The published files of every bench, in small"
    (folder/"amber").mkdir(); (folder/"llava").mkdir(); (folder/"sqa").mkdir()
    write(folder/"amber"/"annotations.json",
          [dict(id=1, type="generative", truth=["sea"], hallu=["fish"]), dict(id=2, type="relation", truth="no"),
           dict(id=3, type="discriminative-relation", truth="yes")])
    write(folder/"amber"/"relation.json", {"sea": ["water"], "fish": [], "cat": []})
    (folder/"amber"/"safe_words.txt").write_text("line\n")
    write(folder/"amber"/"query_all.json",
          [dict(id=1, image="7.png", query="Describe this image."), dict(id=2, image="7.png", query="Is there a dog?"),
           dict(id=3, image="42.jpg", query="Is there a cat?")])
    write(folder/"objhal.jsonl",
          [dict(image_id=42, question="Describe it."), dict(image_id=7, question="Describe it.")])
    write(folder/"mmhal.json",
          [dict(question="Describe?", gt_answer="A cat.", image_content=["cat"], image_src="https://x/y/7.png",
                question_type="attribute")])
    write(folder/"mmvet.json", {"v1": dict(question="A cat?", answer="yes", capability=["rec"], imagename="7.png")})
    write(folder/"llava"/"questions.jsonl",
          [dict(question_id=1, image="7.png", text="Is it a cat?", category="conv"),
           dict(question_id=2, image="7.png", text="A dog?", category="detail")])
    write(folder/"llava"/"context.jsonl", [dict(image="7.png", caption="A cat.")])
    write(folder/"llava"/"answers_gpt4.jsonl", [dict(question_id=i, text="theirs") for i in (1, 2)])
    write(folder/"sqa"/"problems.json",
          {"5": dict(question="Which?", choices=["a dog", "a cat"], answer=1, image="image.png", split="test")})
    (folder/"sqa"/"test"/"5").mkdir(parents=True); Image.new("RGB", (4, 4)).save(folder/"sqa"/"test"/"5"/"image.png")
    (folder/"mmbench.tsv").write_text(f"index\tquestion\tA\tB\tanswer\timage\n3\tWhich?\tx\ty\tB\t{png()}\n")
    place = dict(category="VD", subcategory="chart", set_id="0", visual_input="1")
    write(folder/"hallusion.json",
          [place | dict(figure_id=f, question_id="0", question="A cat?", gt_answer="10"[int(f)], filename=name)
           for f, name in (("0", "7.png"), ("1", "x_000000000009.jpg"))])
    return folder


VERDICTS = {"objhal": '["cat", "couch"]', "mmhal": "Rating: 5", "mmvet": "0.5", "llava-bench": "8 6"}
NEEDS = {"chair": lambda f: dict(annotations=f/"truth.json"),
         "pope": lambda f: dict(annotations=f/"truth.json", by="generation"), "amber": lambda f: dict(data=f/"amber"),
         "objhal": lambda f: dict(data=f/"objhal.jsonl", annotations=f/"truth.json"),
         "mmhal": lambda f: dict(data=f/"mmhal.json"), "mmvet": lambda f: dict(data=f/"mmvet.json"),
         "llava-bench": lambda f: dict(data=f/"llava"), "sqa": lambda f: dict(data=f/"sqa"),
         "mmbench": lambda f: dict(data=f/"mmbench.tsv"), "hallusionbench": lambda f: dict(data=f/"hallusion.json")}
EXPECTED = {"objhal": {"response": .5, "mention": .25}, "mmhal": {"mean": 5, "hallucination": 0},
            "mmvet": {"mean": .5, "mean/rec": .5}, "llava-bench": {"relative": 75, "relative/conv": 75},
            "sqa": {"accuracy": 1}, "mmbench": {"accuracy": 1, "circular": 0},
            "hallusionbench": {"all": .5, "figure": .5, "question": 0, "yes_ratio": 1},
            "amber-generative": {"chair": 1, "cover": 0, "hal": 1, "cog": 0},
            "amber-discriminative": {"accuracy": 1, "recall/relation": 1}}


@pytest.mark.parametrize("name", BENCHES)
def test_every_bench_by_a_model_and_again_from_the_answers_for_its_original(name, all_files):
    files = NEEDS[name](all_files)
    if name in VERDICTS: files["client"] = Judge(lambda prompt: VERDICTS[name])
    images = {} if name in ("sqa", "mmbench") else {"images": all_files/"images"}
    found = evaluate(name, Model(), out=all_files/"out", save_answers=True, **images, **files)
    for bench, tally in found.items():
        for key, value in EXPECTED.get(bench, {}).items(): assert tally.values[key] == pytest.approx(value), key
        assert tally.protocol["model"] == "stand-in" and tally.scores().to_dict()["n"] == tally.n > 0
        if name in VERDICTS:
            assert tally.protocol["judge"] == "stand-in judge" and tally.protocol["prompt"].startswith("ours, ")
    written = sorted((all_files/"out"/"original").iterdir())
    if name == "pope": return     # needs its question files: above
    again = evaluate(name, answers=written, **files)
    assert {b: t.values for b, t in again.items()} == {b: t.values for b, t in found.items()}
    assert all(found[b].compare(again[b], draws=20) for b in found)


# ---- Files that are wrong, in another order, or cut off

def clean(name, folder):
    "The files of one bench with answers for it: (what evaluate takes, the answers' files)"
    files = NEEDS[name](folder)
    if name == "pope":
        files = {"questions": folder/"coco_pope_popular.jsonl"}
        write(files["questions"],
              [dict(question_id=n, image=i, text=f"Is there a {k}?", label=l)
               for n, (i, k, l) in enumerate([("42", "cat", "yes"), ("42", "dog", "no"), ("7", "bed", "yes"),
                                              ("7", "cup", "no")], 1)])
    if name in VERDICTS: files["client"] = Judge(lambda prompt: VERDICTS[name])
    images = {} if name in ("sqa", "mmbench") else {"images": folder/"images"}
    evaluate(name, Model(), out=folder/"out", save_answers=True, **images, **files,
             **({"by": "generation"} if name == "pope" else {}))
    return files, sorted((folder/"out"/"original").iterdir())


def published_files(files, folder):
    paths = [p for p in files.values() if not isinstance(p, (str, Judge))]
    return [f for p in paths for f in (sorted(p.rglob("*.json*")) + sorted(p.rglob("*.txt")) if p.is_dir() else [p])]


def values(name, files, answers):
    return {bench: t.values for bench, t in evaluate(name, answers=answers, **files).items()}


def shapes(text):
    "The file in other shapes: (what was done, its text)"
    half = text.rstrip()[:-5]
    yield from {"cut off": half, "empty": "", "null": "null", "a number": "3", "text": '"x"', "no rows": "[]",
                "no keys": "{}", "a list of numbers": "[7, 8]", "words": "hello", "a list of lists": "[[1]]",
                "a list of nulls": "[null]", "unclosed": text + "[", "not numbers": '[{"id": NaN}]',
                "bytes": "\x00\x01"}.items()
    try: document = json.loads(text)
    except ValueError: document = [json.loads(line) for line in text.splitlines()] if text.startswith("{") else None
    if document is None: return
    rows = list(document.values()) if isinstance(document, dict) else document
    dump = lambda rows: json.dumps(dict(zip(document, rows)) if isinstance(document, dict) else rows)
    if isinstance(document, list):
        yield "a row twice", json.dumps([*rows, rows[0]])
        yield "shuffled", json.dumps(rows[::-1])
    else: yield "shuffled", json.dumps(dict(reversed(document.items())))
    for odd in (None, 3, [1], {"a": 1}, True, "x"): yield f"a row that is {odd}", dump([odd, *rows[1:]])
    for key in rows[0] if isinstance(rows[0], dict) else ():
        yield f"no {key}", dump([{k: v for k, v in rows[0].items() if k != key}, *rows[1:]])
        for odd in (None, ["x", 1], {"a": [1]}, True, -1.5):
            yield f"{key} is {odd}", dump([rows[0] | {key: odd}, *rows[1:]])


@pytest.mark.parametrize("name", BENCHES)
def test_a_wrong_file_of_any_bench_is_refused_in_one_line_or_changes_nothing(name, all_files):
    files, answers = clean(name, all_files)
    right, count, silent = values(name, files, answers), 0, []
    for file in [*published_files(files, all_files), *answers]:
        text = file.read_text()
        for what, odd in shapes(text):
            file.write_text(odd)
            count += 1
            try: now = values(name, files, answers)
            except (ValueError, OSError) as error:
                assert "\n" not in str(error) and len(str(error)) < 500, (file.name, what, str(error))
            except Exception as error: silent.append((file.name, what, f"{type(error).__name__}: {error}"))
            else:
                if any(now[b].get(k, v) != v for b, vs in right.items() for k, v in vs.items()):
                    silent.append((file.name, what, now))
        file.write_text(text)
        original = file.read_bytes()
        file.write_bytes(original.decode().encode("utf-16"))
        assert values(name, files, answers) == right, file.name       # the same text in another encoding
        file.write_bytes(original)
    assert not silent, "\n".join(map(str, silent))
    assert count > 50


@pytest.mark.parametrize("name, file",
                         [("pope", lambda files: files["questions"]), ("mmvet", lambda files: files["data"]),
                          ("llava-bench", lambda files: files["data"]/"questions.jsonl")])
def test_the_published_file_is_not_taken_for_answers(name, file, all_files):
    files, _ = clean(name, all_files)
    with pytest.raises(ValueError,
                       match="every (reply is the published question or answer|answer is the text of its question)"):
        evaluate(name, answers=file(files), **files)


@pytest.mark.parametrize("how, says", [
    (dict(benches="chairs"), "unknown bench 'chairs'; expected chair, pope, amber"),
    (dict(benches="amber"), "amber needs data"), (dict(benches="mmhal"), r"mmhal needs a judge \(--judge MODEL"),
    (dict(benches="chair", questions="q"), "chair takes no questions"),
    (dict(benches="chair,pope", answers="a"), "name one at a time"),
    (dict(benches="chair", answers="a", limit=3), "belong to a model that answers"),
    (dict(benches="pope", answers="a", vlm=Model()), "belong to a model that answers"),
    (dict(benches="sqa", data="nowhere"), "nowhere"), (dict(benches="chair", images="x"), "chair needs annotations")])
def test_what_does_not_fit_is_refused_in_one_line(how, says):
    with pytest.raises((ValueError, OSError), match=says) as error: evaluate(**how)
    assert "\n" not in str(error.value)


# ---- The command line

SHELL = CliRunner(env={"COLUMNS": "200"})


def test_eval_prints_one_document_whatever_is_asked_and_a_table(folder):
    write(folder/"a.jsonl", [dict(image_id=42, caption="A cat and a dog."), dict(image_id=7, caption="A bed.")])
    words = ["eval", "--bench", "chair", "--answers", str(folder/"a.jsonl"), "--annotations", str(folder/"truth.json"),
             "--out", str(folder/"out")]
    out = json.loads(SHELL.invoke(app, [*words, "--json"]).output)
    assert list(out) == ["chair"]
    assert (out["chair"]["chair_s"], out["chair"]["n"]) == (.5, 2)
    assert out["chair"]["protocol"]["answers"] == "a.jsonl"
    assert "| chair_s | 0.500 |" in SHELL.invoke(app, words).output
    assert json.loads((folder/"out"/"chair.json").read_text())["chair_s"] == .5
    for more, says in ((["--limit", "3"], "belong to a model"), (["--model", "x"], "belong to a model"),
                       (["--adapter", "x"], "belong to a model"), (["--bench", "fly"], "unknown bench 'fly'"),
                       (["--questions", "q"], "chair takes no questions")):
        result = SHELL.invoke(app, [*words, *more])
        assert result.exit_code == 1 and says in result.output and len(result.output.strip().splitlines()) == 1


def test_eval_compares_two_files(folder):
    for name, extra in (("a", "A dog."), ("b", "")):
        write(folder/f"{name}.jsonl",
              [dict(image_id=i, caption=f"A cat. {extra}") for i in (42, 7)][:: 1 if name == "a" else -1])
    words = ["eval", "--annotations", str(folder/"truth.json"), "--compare", str(folder/"a.jsonl"),
             str(folder/"b.jsonl")]
    out = json.loads(SHELL.invoke(app, [*words, "--json"]).output)
    assert out["chair"]["chair_s"]["difference"] == -1
    assert set(out["chair"]["recall"]) == {"difference", "low", "high", "p"}
    assert list(out) == ["chair at equal length", "chair at equal recall", "chair"]
    assert SHELL.invoke(app, words).output.startswith("chair: no clear difference at equal recall")   # of two captions
    assert "chair_s" in SHELL.invoke(app, words).output and "-1.000" in SHELL.invoke(app, words).output
    write(folder/"b.jsonl", [dict(image_id=9, caption="A cat.")])
    assert "paired comparison needs the same items" in SHELL.invoke(app, words).output


def test_what_a_number_hides_is_drawn_for_every_bench(all_files, monkeypatch):
    monkeypatch.setattr(benches, "draw_side_by_side",
                        lambda scores: shown.append(next(iter(scores.values()))) or draw(scores))
    shown, draw = [], stats.draw_side_by_side
    for name in BENCHES:
        files = NEEDS[name](all_files) | ({"client": Judge(lambda prompt: VERDICTS[name])} if name in VERDICTS else {})
        images = {} if name in ("sqa", "mmbench") else {"images": all_files/"images"}
        benches._draw({"one": evaluate(name, Model(), out=all_files/"out", **images, **files)}, all_files/"figures")
    assert len(list((all_files/"figures").glob("*.png"))) == len(BENCHES) + 1 == len(shown)       # AMBER has two
    for s in shown:
        assert (set(s.shown) & {"words", "silent", "unclear", "unread", "refused", "yes_ratio", "says_a"}
                and set(s.shown) <= set(s.values)), s.bench


def test_eval_refuses_what_it_would_not_look_at(folder):
    for words, says in ((["--compare", "a", "b", "--answers", "c"], "leave out --answers"),
                        (["--compare", "a", "b", "--limit", "3"], "belong to a model that answers"),
                        (["--harness", "vlmevalkit", "--answers", "a"], "leave out --answers"),
                        (["--harness", "lmms-eval", "--max-new-tokens", "3"], "leave out --max-new-tokens")):
        result = SHELL.invoke(app, ["eval", *words])
        assert result.exit_code == 1 and says in result.output and len(result.output.strip().splitlines()) == 1


def test_lmms_eval_refuses_files_of_ours(folder):
    result = SHELL.invoke(app,
                          ["eval", "--harness", "lmms-eval", "--bench", "pope", "--questions", str(folder/"q.json")])
    assert result.exit_code == 1 and "leave out --questions" in result.output


def test_pictures_inside_object_halbenchs_file_are_shown_to_the_model(all_files):
    data = io.BytesIO()
    Image.new("RGB", (90, 90), "white").save(data, "JPEG")
    write(all_files/"objhal.jsonl",
          [dict(image_id=i, question="Describe it.", image=base64.b64encode(data.getvalue()).decode())
           for i in (42, 7)])
    class Looker(Model):
        def describe(self, images, prompts, batch_size, **decoding):
            return [f"A picture of {i.size[0]} pixels." for i in images]
    files = NEEDS["objhal"](all_files) | {"client": Judge(lambda prompt: "[]" if "of 90 pixels" in prompt else "lost")}
    assert evaluate("objhal", Looker(), out=all_files/"out", **files)["objhal"].unread == 0
    (all_files/"objhal.jsonl").write_text((all_files/"objhal.jsonl").read_text().replace("/9j/", "/9j*"))
    with pytest.raises(ValueError, match="its image cannot be read"):
        evaluate("objhal", Looker(), out=all_files/"other", **files)


# ---- Object HalBench by hand

@pytest.mark.parametrize("reply, objects",
                         [('["a cat"]', ["a cat"]), ('Sure:\n```json\n["cup", "fork"]\n```', ["cup", "fork"]),
                          ("[]", []), ('first ["x"] then ["y"]', ["y"]), ("none", None), ("[1, 2]", None),
                          ('["a"', None), ("", None)])
def test_lists_of_objects(reply, objects): assert _objects(reply) == objects


def test_object_halbench_by_hand():
    lists = {"1": '["men", "a wine glass", "tables"]', "2": "none", "3": '["sky"]', "4": '["cat", "cat"]'}
    rows = [("1", "?", "Two men and a wine glass on tables."), ("2", "?", "A dog on the grass."),
            ("3", "?", "The sky is very blue."), ("4", "?", "A cat and a cat."), ("5", "?", "A cat.")]
    class Lister(Judge):
        def ask(self, requests): return [Outcome(r.key, "ok", lists[r.key]) for r in requests]
    truths = {"1": {"person", "dining table"}, "2": {"dog"}, "3": {"kite"}, "4": {"cat"}, "5": {"cat"}}
    t = _score_objects(Lister(None), rows, truths, coco.coco_vocabulary(rule="english"))
    # 1 of the two that name something; the glass of four
    assert (t.response, t.mention, t.recall) == (1/2, 1/4, 3/6) and t.unread == 1/5

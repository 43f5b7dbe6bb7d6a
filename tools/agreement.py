"""The rule of each benchmark's original beside ours, on a few hundred constructed answers: python -m tools.agreement

The answers go through `evaluate` and are saved as the original's scorer reads them (`save_answers`). The rule, stated
here in plain lines from the original's files, reads those saved answers and the published files; nothing of the
library takes part in it.
"""
import base64, io, itertools, json, random, re, sys, tempfile, zlib
from pathlib import Path
from PIL import Image
from povid_nb.benches import evaluate
from povid_nb.client import Outcome

N = 300


def lines(path): return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
def rate(hits, n): return hits/n if n else 0
def number(text):
    try: return float(text)
    except ValueError: return None


class Model:
    "Gives each prompt about each picture one of the answers, always the same one"
    name = "constructed"
    def __init__(self, answers): self.answers = answers
    def pick(self, key): return self.answers[zlib.crc32(key.encode()) % len(self.answers)]
    def describe(self, images, prompts, batch_size, **decoding):
        return [self.pick(f"{getattr(i, 'info', i)}/{p}") for i, p in zip(images, prompts)]


class Judge(Model):
    "Gives each prompt one verdict, and keeps it under the answer that was judged"
    params, model = {}, "constructed"
    def __init__(self, answers): self.answers, self.said = answers, {}
    def ask(self, requests):
        self.said |= {r.key: self.pick(r.messages[-1]["content"]) for r in requests}
        return [Outcome(r.key, "ok", self.said[r.key]) for r in requests]


def picture_files(folder, names):
    for name in names:
        (folder/"images"/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/"images"/name).touch()
    return folder/"images"


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, value)) if path.suffix == ".jsonl" else json.dumps(value),
                    encoding="utf-8")
    return path


def answered(name, folder, model, **files):
    "Our numbers, and the folder of the saved answers"
    tallies = evaluate(name, model, out=folder/"out", save_answers=True, **files)
    return ({f"{bench.removeprefix(name).strip('-')} {key}".strip(): value for bench, t in tallies.items()
             for key, value in t.values.items()}, folder/"out"/"original")


# ---- CHAIR: a caption's words are made singular; two words may be one thing; each is a kind of COCO's, or nothing ---

SINGULAR = {"cups": "cup", "benches": "bench", "dogs": "dog", "puppies": "puppy", "men": "man", "people": "person",
            "knives": "knife", "buses": "bus",
            "bus": "bu", "glasses": "glass", "tables": "table", "couches": "couch", "elephants": "elephant",
            "cars": "car", "seats": "seat"}
PAIRS = {"wine glass": "wine glass", "dining table": "dining table", "baby elephant": "elephant",
         "passenger train": "train", "toilet seat": "toilet",
         "train track": "train track", "home plate": "home plate", "hot dog": "hot dog", "teddy bear": "teddy bear",
         "cell phone": "cell phone"}
KINDS = dict(cup="cup", bench="bench", dog="dog", puppy="dog", man="person", woman="person", person="person",
             knife="knife", bus="bus", table="dining table", couch="couch", sofa="couch",
             elephant="elephant", car="car", taxi="car", seat="chair", toilet="toilet", train="train", bear="bear",
             cat="cat", phone="cell phone") | {
    p: p for p in ("wine glass", "dining table", "hot dog", "teddy bear", "cell phone")}
PHRASES = ["a man", "two dogs", "several people", "a wine glass", "a dining table", "the tables", "a baby elephant",
           "a passenger train", "the toilet", "two seats", "a train track",
           "the home plate", "a hot dog", "a teddy bear", "some cups", "a bus", "three buses", "two benches", "knives",
           "a taxi", "a sofa", "a tree", "the glasses", "a puppy", "a car's door", "a cell phone"]


def kinds_by_the_rule(caption):
    words = [SINGULAR.get(w, w) for w in re.findall(r"[a-z]+", caption.lower())]
    found = []
    while words:
        pair = PAIRS.get(" ".join(words[:2]))
        found.append(pair or words[0])
        words = words[2 if pair else 1:]
    if "toilet" in found: found = [w for w in found if w != "seat"]
    return [KINDS[w] for w in found if w in KINDS]


def chair(folder, rng):
    truth = {i: rng.sample(sorted({"person", "dog", "wine glass", "dining table", "elephant", "train", "toilet",
                                   "chair", "cup", "bus", "bench", "knife", "car", "couch"}), 4) for i in range(N)}
    images = picture_files(folder, [f"COCO_val2014_{i:012}.jpg" for i in truth])
    files = save(folder/"truth.json", truth)
    model = Model([f"There is {' and '.join(rng.choices(PHRASES, k=rng.randint(1, 6)))}, near a wall."
                   for _ in range(N)])
    ours, saved = answered("chair", folder, model, annotations=files, images=images)
    named = {row["image_id"]: kinds_by_the_rule(row["caption"]) for row in lines(saved/"chair.jsonl")}
    wrong = {i: [k for k in kinds if k not in truth[i]] for i, kinds in named.items()}
    yield "chair_s", rate(sum(map(bool, wrong.values())), len(named)), ours
    yield "chair_i", rate(sum(map(len, wrong.values())), sum(map(len, named.values()))), ours
    yield ("recall",
           rate(sum(len(set(kinds) & set(truth[i])) for i, kinds in named.items()), sum(map(len, truth.values()))),
           ours)


# ---- POPE: 'No', 'no' or 'not' before the first full stop is a no, all else a yes -----------------------------------

def pope(folder, rng):
    images = picture_files(folder, [f"{i}.jpg" for i in range(100)])
    files = [save(folder/f"coco_pope_{split}.json",
                  [dict(question_id=n, image=f"{n % 100}.jpg", text=f"Is there a thing {n} in the image?",
                        label=rng.choice(["yes", "no"])) for n in range(N)])
             for split in ("random", "popular", "adversarial")]
    model = Model(["Yes", "No", "yes, it is", "no, not at all", "There is not.", "It is there. No doubt.", "NO",
                   "none", "", "Nobody", "Yes,no", "I do not know", "no."])
    ours, saved = answered("pope", folder, model, questions=files, images=images, by="generation")
    each = []
    for file in files:
        split = file.stem.removeprefix("coco_pope_")
        said = [not {"No", "no", "not"} & set(r["answer"].split(".")[0].replace(",", "").split(" "))
                for r in lines(saved/f"pope_{split}.jsonl")]
        true = [q["label"] == "yes" for q in json.loads(file.read_text())]
        tp, fp, fn = sum(s and t for s, t in zip(said, true)), sum(s and not t for s, t in zip(said, true)), sum(t
            and not s for s, t in zip(said, true))
        precision, recall = tp/(tp + fp), tp/(tp + fn)
        each.append(dict(accuracy=rate(sum(s == t for s, t in zip(said, true)), N),
                         f1=2*precision*recall/(precision + recall), yes_ratio=rate(sum(said), N)))
        for name, value in each[-1].items(): yield f"{name}/{split}", value, ours
    for name in each[0]: yield name, sum(e[name] for e in each)/3, ours


# ---- AMBER: each noun of its list is safe, covers a true thing, or is wrong; 'No' is the positive answer ------------
# (the original prints percent with one digit, and adds .0001 to the denominator of F1)

RELATION = {"sea": ["ocean", "wave"], "boat": ["ship", "ferry"], "dog": ["puppy"], "cat": ["kitten"], "tree": ["palm"],
            "bird": ["gull"], "beach": ["shore"], "cloud": [], "man": ["boy"], "hat": ["cap"]}
AMBER_TYPES = {"discriminative-hallucination": "existence", "discriminative-attribute-state": "state",
               "discriminative-attribute-number": "number",
               "discriminative-attribute-action": "action", "discriminative-relation": "relation",
               "relation": "relation"}


def amber(folder, rng):
    words, safe = sorted({w for k, v in RELATION.items() for w in [k, *v]}), ["cloud"]
    notes = []
    for i in range(1, N + 1):
        there = rng.sample(sorted(RELATION), 5)
        notes.append(dict(id=i, type="generative", truth=there[:3], hallu=there[3:]))
    notes += [dict(id=i, type=rng.choice(list(AMBER_TYPES)), truth=rng.choice(["yes", "no"]), hallu=[])
              for i in range(N + 1, 3*N)]
    save(folder/"amber"/"annotations.json", notes)
    save(folder/"amber"/"relation.json", RELATION)
    (folder/"amber"/"safe_words.txt").write_text("\n".join(safe))
    ask = lambda a: "Describe this image." if a["type"] == "generative" else f"Is it so ({a['id']})?"
    save(folder/"amber"/"query_all.json",
         [dict(id=a["id"], image=f"AMBER_{a['id']}.jpg", query=ask(a)) for a in notes])
    images = picture_files(folder, [f"AMBER_{a['id']}.jpg" for a in notes])
    class Both(Model):
        captions = [". ".join(f"There is the {w}" for w in rng.choices(words, k=rng.randint(1, 7))) + "."
                    for _ in range(N)]
        def describe(self, images, prompts, batch_size, **decoding):
            self.answers = self.captions
            captions = super().describe(images, prompts, batch_size)
            self.answers = ["Yes", "No", "Yes", "No", "yes", "No.", ""]
            return [c if "Describe" in p else a
                    for c, a, p in zip(captions, super().describe(images, prompts, batch_size), prompts)]
    ours, saved = answered("amber", folder, Both([]), data=folder/"amber", images=images)
    said = {row["id"]: row["response"] for row in json.loads((saved/"amber.json").read_text())}
    first = lambda noun, things: next((t for t in things if noun in RELATION[t]), noun if noun in things else None)
    total = dict.fromkeys(("nouns", "wrong", "hal", "covered", "there", "imagined", "hallu"), 0)
    for a in notes[:N]:
        nouns = re.findall(r"the (\w+)", said[a["id"]])
        counted = [w for w in nouns if w not in safe]
        wrong = [w for w in counted if first(w, a["truth"]) is None]
        covered, imagined = {first(w, a["truth"]) for w in counted} - {None}, {first(w, a["hallu"])
            for w in wrong} - {None}
        for key, value in zip(total,
                              (len(nouns), len(wrong), bool(wrong), len(covered), len(a["truth"]), len(imagined),
                               len(a["hallu"]))):
            total[key] += value
    yield "generative chair", total["wrong"]/total["nouns"], ours
    yield "generative cover", total["covered"]/total["there"], ours
    yield "generative hal", total["hal"]/N, ours
    yield "generative cog", total["imagined"]/total["hallu"], ours
    for group in ("", *dict.fromkeys(AMBER_TYPES.values())):
        rows, tail = [a for a in notes[N:] if group in ("", AMBER_TYPES[a["type"]])], f"/{group}" if group else ""
        right_no, said_no, no = (sum(map(f, rows))
                                 for f in (lambda a: a["truth"] == "no" == said[a["id"]].lower()
                                           and said[a["id"]] == "No", lambda a: said[a["id"]] == "No",
                                           lambda a: a["truth"] == "no"))
        yield (f"discriminative accuracy{tail}",
               rate(sum((a["truth"], said[a["id"]]) in (("yes", "Yes"), ("no", "No")) for a in rows), len(rows)), ours)
        precision, recall = right_no/said_no, right_no/no
        yield f"discriminative f1{tail}", 2*precision*recall/(precision + recall), ours


# ---- Object HalBench: the listed objects as words of CHAIR's list, each word once a caption -------------------------

OBJECTS = {"a man": ["man"], "men": ["man"], "wine glasses": ["wine glass"], "a red car": ["car"], "cats": ["cat"],
           "cat": ["cat"], "woman": ["woman"], "kitchen table": [], "fruit knife": [], "sky": [],
           "baby elephant": ["elephant"], "home plate": [], "puppies": ["puppy"], "dog": ["dog"], "benches": ["bench"],
           "teddy bear": ["teddy bear"], "the bus": ["bus"], "train track": [], "two cups": ["cup"],
           "toilet": ["toilet"], "seat": ["seat"]}


def objhal(folder, rng):
    truth = {i: rng.sample(["person", "dog", "wine glass", "car", "cat", "elephant", "cup", "bench", "bus",
                            "teddy bear", "chair"], 4) for i in range(N)}
    files = dict(data=save(folder/"obj_halbench.jsonl",
                           [dict(image_id=i, question="Describe the image.") for i in truth]),
                 annotations=save(folder/"truth.json", truth),
                 images=picture_files(folder, [f"COCO_val2014_{i:012}.jpg" for i in truth]))
    judge = Judge([json.dumps(rng.sample(list(OBJECTS), rng.randint(0, 6))) for _ in range(N)])
    model = Model(["Nothing to see.", *(f"There is a lot to see here, number {n}." for n in range(9))])
    ours, saved = answered("objhal", folder, model, client=judge, **files)
    wrong, mentions, any_wrong, any_named, found = [], 0, 0, 0, 0
    for row in lines(saved/"objhal.jsonl"):
        listed = json.loads(judge.said[str(row["image_id"])]) if len(row["answer"].split()) > 3 else []
        words = {w for o in listed for w in OBJECTS[o]}
        if "toilet" in words: words -= {"seat"}
        bad = [w for w in words if KINDS[w] not in truth[int(row["image_id"])]]
        wrong, mentions, any_wrong, any_named = (wrong + bad, mentions + len(words), any_wrong + bool(bad),
                                                 any_named + bool(words))
        found += len({KINDS[w] for w in words} & set(truth[int(row["image_id"])]))
    yield "response", any_wrong/any_named, ours
    yield "mention", len(wrong)/mentions, ours
    yield "recall", found/sum(map(len, truth.values())), ours


# ---- Judged: MMHal-Bench, MM-Vet, LLaVA-Bench -----------------------------------------------------------------------

def mmhal(folder, rng):
    kinds = ["attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other"]
    records = [dict(question_type=kinds[n % 8], question=f"Question {n}?", gt_answer="this", image_content=["cup"],
                    image_id=f"{n}", image_src=f"https://x/{n}.jpg") for n in range(N)]
    images, data = picture_files(folder, [f"{n}.jpg" for n in range(N)]), save(folder/"mmhal.json", records)
    judge = Judge([*(f"Because.\nRating: {n}" for n in range(7)), "rating: 2, or rating: 4", "no verdict", "RATING: 6",
                   "Rating 5"])
    ours, saved = answered("mmhal", folder, Model(["One.", "Two words."]), client=judge, data=data, images=images,
                           failed=0)
    assert [r["question"] for r in json.loads((saved/"mmhal.json").read_text())] == [r["question"] for r in records]
    there = [[n for n in range(7) if f"rating: {n}" in judge.said[str(i)].lower()] for i in range(N)]
    marks = [t[0] if len(t) == 1 else 0 for t in there]
    yield "mean", sum(marks)/N, ours
    yield "hallucination", sum(m < 3 for m in marks)/N, ours
    for k, kind in enumerate(kinds): yield f"mean/{kind}", rate(sum(marks[k::8]), len(marks[k::8])), ours


def mmvet(folder, rng):
    skills = ["rec", "ocr", "know", "gen", "spat", "math"]
    questions = {f"v1_{n}": dict(imagename=f"v1_{n}.png", question=f"Question {n}?", answer="this<AND>that",
                                 capability=rng.sample(skills, rng.randint(1, 3))) for n in range(N)}
    images, data = picture_files(folder, [q["imagename"] for q in questions.values()]), save(folder/"mm-vet.json",
        questions)
    judge = Judge(["0.0", "1.0", "0.5", "0.3 because", " 0.7", "1"])
    ours, saved = answered("mmvet", folder, Model(["One.", "Two words."]), client=judge, data=data, images=images,
                           times=1)
    marks = {i: number(judge.said[i].strip(" ").split(" ")[0]) for i in json.loads((saved/"mmvet.json").read_text())}
    yield "mean", sum(marks.values())/N, ours
    for skill in skills:
        some = [m for i, m in marks.items() if skill in questions[i]["capability"]]
        yield f"mean/{skill}", sum(some)/len(some), ours


def llava_bench(folder, rng):
    questions = [dict(question_id=n, image=f"{n % 60:03}.jpg", text=f"Question {n}?",
                      category=["conv", "detail", "complex"][n % 3]) for n in range(N)]
    images = picture_files(folder, [f"{n:03}.jpg" for n in range(60)])
    save(folder/"llava"/"questions.jsonl", questions)
    save(folder/"llava"/"context.jsonl",
         [dict(id=f"{n:03}", image=f"{n:03}.jpg", caption="A cup.") for n in range(60)])
    save(folder/"llava"/"answers_gpt4.jsonl", [dict(question_id=n, text="theirs") for n in range(N)])
    judge = Judge(["8 7", "9,5\nso", "10 10", "6 8.5\n1 1", "7, 8", "none", "Assistant 1: 8"])
    ours, saved = answered("llava-bench", folder, Model(["One.", "Two words."]), client=judge, data=folder/"llava",
                           images=images, failed=(-1, -1))
    marks = {}
    for row in lines(saved/"llava-bench.jsonl"):
        parts = judge.said[str(row["question_id"])].split("\n")[0].replace(",", " ").split(" ")
        pair = [number(p) for p in parts]
        marks[int(row["question_id"])] = pair if len(pair) == 2 and None not in pair else [-1, -1]
    for group in ("", "conv", "detail", "complex"):
        some = [marks[q["question_id"]] for q in questions if group in ("", q["category"])]
        theirs, mine = (sum(column)/len(some) for column in zip(*some))
        yield f"relative/{group}".strip("/"), 100*mine/theirs, ours


# ---- A letter: ScienceQA by LLaVA's rule, MMBench by VLMEvalKit's exact matching, in all rotations ------------------

def png(n):
    data = io.BytesIO()
    Image.new("RGB", (2, 2), (n % 256, n//256, 0)).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


def sqa(folder, rng):
    words = ["a fork", "a bird", "a sofa", "a bus", "a tree"]
    problems = {str(n): dict(question=f"Question {n}?", choices=rng.sample(words, rng.randint(2, 5)),
                             image="image.png" if n % 3 else None, split="test",
                             subject=rng.choice(["natural science", "language science"])) for n in range(N)}
    for p in problems.values(): p["answer"] = rng.randrange(len(p["choices"]))
    save(folder/"sqa"/"problems.json", problems)
    save(folder/"sqa"/"pid_splits.json", {"test": list(problems)})
    model = Model(["A", "B", "C", "D", "E", "A. a fork", "B. a bird", "B.a bird", "The answer is C.",
                   "The answer is A. No: The answer is B.", "I think so. The answer is B, sure", "b", "(A)", "",
                   "The answer is D"])
    ours, saved = answered("sqa", folder, model, data=folder/"sqa")
    right, rows = 0, lines(saved/"sqa.jsonl")
    for row in rows:
        text, said = row["text"], re.findall(r"The answer is ([A-Z]).", row["text"])
        letter = (text if text in list("ABCDE") else text[0] if len(text) > 2 and text[0] in "ABCDE"
                  and text[1:3] == ". " else said[0] if len(said) == 1 else "?")
        problem = problems[row["question_id"]]
        right += letter in "ABCDE"[:len(problem["choices"])] and "ABCDE".index(letter) == problem["answer"]
    assert len(rows) == sum(p["image"] is not None for p in problems.values())
    yield "accuracy", right/len(rows), ours


def mmbench(folder, rng):
    words, table = ["fork", "bird", "sofa", "bus", "tree"], []
    for n in range(N):
        options = rng.sample(words, rng.randint(2, 4))
        table.append(dict(index=n, question=f"Question {n}?", hint="", **dict(zip("ABCD", options + ["", ""])),
                          answer=rng.choice("ABCD"[:len(options)]), category=rng.choice(["ocr", "action"]),
                          image=png(n)))
    (folder/"mmbench.tsv").write_text("\n".join(["\t".join(table[0]),
                                                 *("\t".join(map(str, r.values())) for r in table)]))
    class Often(Model):     # the option `fork` wherever it stands, or a letter
        def describe(self, images, prompts, batch_size, **decoding):
            replies = super().describe(images, [p.split("\n")[0] for p in prompts], batch_size)
            at = lambda p: (re.search(r"([A-D])\. (?:fork|bird)", p) or re.search("(A)", "A"))[1]
            return [r.replace("@", at(p)) for r, p in zip(replies, prompts)]
    model = Often(["@", "@.", "(@)", "fork", "It is a bird.", "Answer: @", "A fork and a bird", "@ or A",
                   "The letter @ is what I would say to this", "", "sofa", "a"])
    ours, saved = answered("mmbench", folder, model, data=folder/"mmbench.tsv")
    truth, hits, plain = {str(r["index"]): r for r in table}, {}, {}
    for row in lines(saved/"mmbench.jsonl"):
        r = truth[row["question_id"]]
        options = [r[letter] for letter in "ABCD" if r[letter]]
        turn = row["round_id"]
        turned = dict(zip("ABCD", options[turn:] + options[:turn]))
        words = re.sub(r"[.()\[\],:;!*#{}]", " ", row["text"]).split()
        alone, held = [k for k in turned if k in words], [k for k, v in turned.items() if v in row["text"].lower()]
        letter = alone[0] if len(alone) == 1 and words.index(alone[0]) > len(words) - 5 else None
        if letter is None and len(held) == 1 and len(row["text"]) <= 2*sum(map(len, turned.values())): letter = held[0]
        right = letter is not None and turned[letter] == r[r["answer"]]
        hits[r["index"]] = hits.get(r["index"], True) and right
        if turn == 0: plain[r["index"]] = right
    yield "accuracy", sum(plain.values())/N, ours
    yield "circular", sum(hits.values())/N, ours


# ---- HallusionBench: right answers one by one, by figure, by question -----------------------------------------------

def hallusionbench(folder, rng):
    rows = [dict(category=c, subcategory="x", visual_input="1", set_id=str(s), figure_id=str(f), question_id=str(q),
                 question=f"Is it so ({q})?", gt_answer=rng.choice("01"),
                 filename=f"./hallusion_bench/{c}/x/{s}_{f}.png")
            for c, s, f, q in itertools.product(("VD", "VS"), range(25), range(3), range(2))]
    images = picture_files(folder, {r["filename"].removeprefix("./hallusion_bench/") for r in rows})
    model = Model(["Yes, it is.", "No.", "yes", "No, not at all", "Yes", "No", "Perhaps", "It cannot be seen."])
    ours, saved = answered("hallusionbench", folder, model, data=save(folder/"HallusionBench.json", rows),
                           images=images)
    figures, questions, every = {}, {}, []
    for r in json.loads((saved/"hallusionbench.json").read_text()):
        said = r["model_prediction"].lower()
        verdict = ("2" if said[:2] not in ("ye", "no") else "1" if (said[:2] == "ye") == (r["gt_answer"] == "1")
                   else "0")
        right = verdict == "1" or (verdict == "2" and (r["category"], r["figure_id"]) == ("VS", "0"))
        every.append(right)
        place = r["category"], r["subcategory"], r["set_id"]
        if (r["category"], r["figure_id"]) != ("VS", "0"):
            figures.setdefault((*place, r["figure_id"]), []).append(right)
        questions.setdefault((*place, r["question_id"]), []).append(right)
    yield "all", sum(every)/len(every), ours
    yield "figure", sum(map(all, figures.values()))/len(figures), ours
    yield "question", sum(map(all, questions.values()))/len(questions), ours


BENCHES = {"chair": chair, "pope": pope, "amber": amber, "objhal": objhal, "mmhal": mmhal, "mmvet": mmvet,
           "llava-bench": llava_bench, "sqa": sqa, "mmbench": mmbench, "hallusionbench": hallusionbench}


def table(name, seed=0):
    "(measure, the original's rule, here) of one benchmark"
    with tempfile.TemporaryDirectory() as folder:
        return [(measure, rule, ours[measure])
                for measure, rule, ours in BENCHES[name](Path(folder), random.Random(seed))]


if __name__ == "__main__":
    worst = 0
    print(f"{'bench':16}{'measure':34}{'original rule':>14}{'here':>12}{'difference':>12}")
    for name in BENCHES:
        for measure, rule, here in table(name):
            worst = max(worst, abs(here - rule))
            print(f"{name:16}{measure:34}{rule:14.4f}{here:12.4f}{round(here - rule, 9) + 0.:12.4g}")
    sys.exit(worst > 1e-9)

"""`python -m bench scores`: how long it takes to score 5,000 captions and 9,000 answers, from their files to the
intervals."""
import json, random, tempfile
from pathlib import Path

from povid_nb import coco, pope
from povid_nb.benches import evaluate

from .measure import CLOCK, alternating, keep, machine, middle

WORDS = ("there is near and with on the a in front of behind some several another it seems that picture shows while "
         "also large small".split())


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def captions(folder, n=5000, words=87):
    "Captions as long as LLaVA's, a seventh of their words COCO's terms, and what is there: (captions, annotations)"
    rng, vocabulary = random.Random(0), coco.coco_vocabulary()
    terms = sorted(vocabulary.names)
    write = lambda: " ".join(rng.choice(terms if rng.random() < 1/7 else WORDS) for _ in range(words)) + "."
    (folder/"truth.json").write_text(json.dumps({i: rng.sample(vocabulary.kinds, 6) for i in range(n)}))
    return lines(folder/"captions.jsonl", (dict(image_id=i, caption=write()) for i in range(n))), folder/"truth.json"


def answers(folder, pictures=500):
    "POPE's three files of 3,000 questions each, with answers: (answers, questions)"
    rng, kinds = random.Random(0), coco.coco_vocabulary().kinds
    asked = pope.build_questions({f"{i}.jpg": rng.sample(kinds, 6) for i in range(pictures)})
    of = lambda split: [q for q in asked if q["split"] == split]
    said = lambda q: dict(question_id=q["question_id"], split=q["split"],
                          text=rng.choice(["Yes", "No", "Yes, there is.", "No, there is none."]))
    return ([lines(folder/f"answers_{s}.jsonl", map(said, of(s))) for s in pope.SPLITS],
            [lines(folder/f"coco_pope_{s}.json", of(s)) for s in pope.SPLITS])


def main(args):
    with tempfile.TemporaryDirectory() as folder:
        (said, truth), (replies, questions) = captions(Path(folder)), answers(Path(folder))
        works = {"5,000 captions, CHAIR": lambda: evaluate("chair", answers=said, annotations=truth)["chair"],
                 "9,000 answers, POPE": lambda: evaluate("pope", answers=replies, questions=questions)["pope"]}
        assert [work().n for work in works.values()] == [5000, 9000]
        steps = {f"{name}{more}": (lambda work=work, more=more: work().scores() if more else work())
                 for name, work in works.items() for more in ("", ", with intervals")}
        found = {name: middle(times)
                 for name, times in alternating(steps, args.rounds or (1 if args.quick else 3)).items()}
    for name, value in found.items(): print(f"{name:40} {value:6.2f} s")
    print(f"From files to numbers; {CLOCK}.")
    if args.json: keep({"seconds": found, "machine": machine(), "clock": CLOCK}, args.json)

"The report of a run: what comes from data stays text, one bad figure costs one figure, and comparisons are by picture"
import html, re
import pytest
from PIL import Image
from povid_nb import chair, measure, pairs, report

EVIL = '<script>alert("$x")</script><img src=x onerror=alert(1)>'
TRUTHS = [{"fork", "plate"}, {"ball"}, {"dog", "ball"}]
BEFORE = ["A fork and a knife.", "A ball and a dog.", "A dog and a ball."]
AFTER = ["A fork.", "A ball.", "A dog and a cat."]


def found(*names, splits=("typical", "counter")):
    def of(texts):
        scored = chair.score(texts, TRUTHS, measure.VOCABULARY)
        images = {i: Image.new("RGB", (40, 30), (i, 0, 0)) for i in range(3)}
        return {split: dict(images=images, captions=scored, chair=scored.scores()) for split in splits}
    return {name: of(BEFORE if name == "base" else AFTER) for name in names}


def a_pair(text):
    example = pairs.Example(Image.new("RGB", (8, 8)), "What is there?", f"A cup. {text}")
    return pairs.Pair(example, f"A cup and a spoon. {text}", text)


@pytest.fixture(scope="module")
def evil_page():
    def fails(): raise ValueError(EVIL)
    return report.report_page({"own": found("base", "sft", "stage2"), EVIL: found("base", "sft", "stage2")}, EVIL,
                              [(EVIL, EVIL, 3)], [a_pair(EVIL)], {"sft": [{"step": 1, "loss": 1.}]},
                       [(EVIL, EVIL, fails, EVIL), ("Skipped", "Why it is.", None, "")], EVIL, {EVIL: EVIL})


def test_no_text_becomes_code(evil_page):
    assert "<script" not in evil_page
    assert "onerror=alert(1)>" not in re.sub(r'title="[^"]*"|alt="[^"]*"', "", evil_page)
    assert evil_page.count("<img") == evil_page.count('<img alt="')          # none but those of the page itself
    assert evil_page.count(html.escape("<script>")) >= 10                    # they are there, as text


def test_a_figure_that_fails_says_so_and_the_rest_is_there(evil_page):
    assert "This figure could not be drawn (ValueError: &lt;script&gt;" in evil_page and "Why it is." in evil_page
    for title in ("How it was made", "What it says", "What was measured", "Training", "Repeat it"):
        assert f"<h2>{title}</h2>" in evil_page


def test_the_first_screen_has_one_chart_all_splits_and_cards(evil_page):
    first = evil_page[:evil_page.index("<h2>")]
    assert first.count('alt="Captions that hallucinate against') == 1
    assert first.count('class="card"') == 2, "a card for each of the two pictures that are described wrongly before"
    for words in ("Typical scenes", "Counter-typical scenes", ">control</td>", ">before</td>"): assert words in first
    assert first.count(">control</td>") == 2, "a row for each kind of right answers"


def test_how_it_was_made_comes_next_and_measurements_after_the_captions(evil_page):
    order = [evil_page.index(f"<h2>{title}</h2>")
             for title in ("How it was made", "What it says", "What was measured")]
    assert order == sorted(order) and evil_page.index("a preference pair") < order[1]


def scored(texts, n=30):
    "A model that says each of the three texts `n` times, about as many pictures"
    of = chair.score(texts * n, TRUTHS * n, measure.VOCABULARY)
    images = dict.fromkeys(range(3 * n), Image.new("RGB", (4, 4)))
    return {"counter": dict(images=images, captions=of, chair=of.scores())}


RIGHT = ["A fork on a plate.", "A ball.", "A dog and a ball."]
WRONG = ["A fork, a plate and a knife.", "A ball and a dog.", "A dog and a ball."]


@pytest.mark.parametrize("control, stage, judged", [
    (WRONG, RIGHT, "the contrast matters"), (RIGHT, RIGHT, "they alone are enough"),
    (WRONG, WRONG, "no gain is clear"),
    (RIGHT, WRONG, "the contrast does harm"), (WRONG, [""] * 3, "no gain is clear")])
def test_where_the_contrast_matters(control, stage, judged):
    "Only what the control does not reach is credited to the contrast, and saying nothing is no gain"
    models = {"base": scored(WRONG), "sft": scored(control), "stage1": scored(stage)}
    short, figures = report._outcome(models, "own")
    assert short.startswith(f"Right answers with the model's own errors: {judged}")
    points = round(100
                   * (models["stage1"]["counter"]["captions"].chair_s - models["sft"]["counter"]["captions"].chair_s))
    assert "67 % hallucinate before" in figures
    assert f"stage 1: {points:+d} (".replace("-", "−").replace("+0", "0") in figures


def test_one_model_alone_has_no_differences():
    source = report.report_page({"own": found("base")}, "m", [])
    assert "less before" not in source and "Where it got worse" not in source and "there is no control" in source


def test_differences_are_of_the_same_pictures():
    changes = report.differences(found("base", "sft", "stage2"), "counter")
    assert list(changes) == [("base", "sft"), ("base", "stage2"), ("sft", "stage2")]
    assert changes["base", "stage2"]["chair_s"].difference == pytest.approx(1 / 3 - 2 / 3)
    assert changes["sft", "stage2"]["recall"].difference == 0


def test_where_it_got_worse():
    "Of the three pictures, the third is described right before and wrongly after"
    shown = report._before_after(found("base", "stage2"), "counter", worse=True)
    assert shown.count('class="card"') == 1 and "a picture with ball, dog" in shown


def test_a_kind_of_test_that_the_page_does_not_know():
    source = report.report_page({"own": found("base", "stage2", splits=("<b>mine</b>",))}, "m", [])
    assert "<b>mine" not in source and "&lt;b&gt;mine" in source


def test_like_for_like_comes_before_the_other_tables():
    source = report.report_page({"own": found("base", "stage2")}, "m", [])
    assert source.count("equal recall</td>") == 2
    assert source.index("equal recall</td>") < source.index("hallucinate (CHAIR<sub>s</sub>)",
                                                            source.index("equal recall</td>"))
    assert source.count("the headline, and length, recall or yes-rate beside it") == 1
    assert "could not be drawn" not in source

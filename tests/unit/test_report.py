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
    return report.report_page(found("base", "sft", "stage2"), EVIL, [(EVIL, EVIL, 3)], [a_pair(EVIL)], {"sft": [{"step": 1, "loss": 1.}]},
                       [(EVIL, EVIL, fails, EVIL), ("Skipped", "Why it is.", None, "")], EVIL, {EVIL: EVIL})


def test_no_text_becomes_code(evil_page):
    assert "<script" not in evil_page and "onerror=alert(1)>" not in re.sub(r'title="[^"]*"|alt="[^"]*"', "", evil_page)
    assert evil_page.count("<img") == evil_page.count('<img alt="')          # none but those of the page itself
    assert evil_page.count(html.escape("<script>")) >= 10                    # they are there, as text


def test_a_figure_that_fails_says_so_and_the_rest_is_there(evil_page):
    assert "This figure could not be drawn (ValueError: &lt;script&gt;" in evil_page and "Why it is." in evil_page
    for title in ("What it says", "What was measured", "What was done", "Training", "Repeat it"): assert f"<h2>{title}</h2>" in evil_page


def test_a_chart_comes_first_and_captions_before_pairs(evil_page):
    assert evil_page.index("<img") < evil_page.index("<h2>")
    assert evil_page.index("What it says") < evil_page.index("What was measured") < evil_page.index("a preference pair")


def test_both_kinds_of_pictures_are_in_the_headline():
    models = found("base", "sft", "stage2")
    text = report._answer(models, report._like_for_like(models))
    assert len(text) == 2 and text[0].startswith("Typical scenes: before, 67 %") and "afterwards 33 %" in text[1]
    assert "The difference is -33 points, +33 at equal length and +33 at equal recall. No clear difference" in text[1]
    assert "reaches 33 % and 60 %" in text[1]                                # 3 of 5 things named by `AFTER`


def test_one_model_alone_has_no_differences():
    source = report.report_page(found("base"), "m", [])
    assert "less before" not in source and "Where it got worse" not in source


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
    source = report.report_page(found("base", "stage2", splits=("<b>mine</b>",)), "m", [])
    assert "<b>mine" not in source and "&lt;b&gt;mine" in source


def test_like_for_like_comes_before_the_other_tables():
    source = report.report_page(found("base", "stage2"), "m", [])
    assert source.count("equal recall</td>") == 2 and source.index("equal recall</td>") < source.index("hallucinate (CHAIR<sub>s</sub>)", source.index("equal recall</td>"))
    assert source.count("the headline, and length, recall or yes-rate beside it") == 2 and "could not be drawn" not in source

"""Texts from models, pairs and file names stay texts: canaries in every page and widget, in a real browser.

Each page gets texts that would call `canary()` if any of them became code. Then everything on it is pointed at,
pressed and focused.
"""
import json
import pytest
from PIL import Image
from povid_nb import inject, report, viz, world
from povid_nb.dial import Dial
from povid_nb.explorer import Explorer
from povid_nb.looker import Looker
from povid_nb.pairs import Edit, Example, Pair
from povid_nb.quiz import quiz
from povid_nb.review import Viewer
from povid_nb.vlm import VLM

pytestmark = [pytest.mark.browser, pytest.mark.attack]
EVIL = " ".join(["A red cup.", "<script>canary('tag')</script>", "</script><script>canary('end')</script>",
                 "<img src=x onerror=canary('img')>", "<svg onload=canary('svg')>",
                 "\" autofocus onfocus=canary('double') x=\"", "' autofocus onfocus=canary('single') x='",
                 "\"><img src=x onerror=canary('out')>", "<a href=\"javascript:canary('link')\">a link</a>",
                 "[a link](javascript:canary('mark'))", "</title><script>canary('title')</script>",
                 "</style></textarea></noscript><script>canary('raw')</script>", "]]><!--<script>",
                 "&lt;script&gt;canary('entity')&lt;/script&gt;", "${canary('dollar')}",
                 "{{constructor.constructor('canary(1)')()}}", "\\u003cscript>canary('u')\\u003c/script>",
                 "$\\frac{1}{0}$ costs $5", "\u2028 the end."])
LISTEN = "window.heard = []; window.canary = what => window.heard.push(what); window.alert = window.canary;"
LOOK = """() => { const all = [...document.querySelectorAll('*')];
  const types = ['mouseover', 'mouseenter', 'focus', 'focusin', 'toggle'];
  for (const el of all) { for (const type of types) el.dispatchEvent(new Event(type)); }
  const typed = [...document.querySelectorAll('textarea, input[type=text]')];
  const places = ['href', 'src', 'action', 'formaction', 'srcdoc', 'xlink:href'];
  const pressed = 'button, a, summary, label, input[type=radio], input[type=checkbox]';
  for (const el of document.querySelectorAll(pressed)) el.click();
  return {heard: window.heard, text: document.body.textContent + typed.map(el => el.value).join(' '),
    named: all.flatMap(el => [...el.attributes].map(a => a.value)).join(' '), title: document.title,
    handlers: all.flatMap(el => [...el.attributes].filter(a => a.name.startsWith('on'))
      .map(a => `${el.tagName} ${a.name}`)),
    links: all.flatMap(el => places.map(n => el.getAttribute(n) || '')).filter(v => /^\\s*javascript:/i.test(v)),
    scripts: document.querySelectorAll('script').length,
    images: [...document.querySelectorAll('img')].filter(i => !/^data:/.test(i.getAttribute('src'))).length}; }"""
words = lambda text: " ".join(text.split())


def examined(page, address, scripts=0, shown=EVIL):
    "Nothing on the page is code but its own; the canaries are there, as text"
    page.add_init_script(LISTEN)
    page.goto(address)
    page.wait_for_timeout(200)
    seen = page.evaluate(LOOK)
    page.wait_for_timeout(100)
    assert not seen["heard"] and not page.evaluate("window.heard"), seen["heard"]
    assert not seen["handlers"] and not seen["links"] and not seen["images"], (seen["handlers"], seen["links"])
    assert seen["scripts"] == scripts and not page.errors, page.errors
    assert words(shown) in words(seen["text"]), "the text is not shown whole"
    return seen


def test_the_canaries_are_heard_where_text_is_not_escaped(page, still_page):
    page.add_init_script(LISTEN)
    page.goto(still_page(EVIL))
    page.wait_for_timeout(200)
    seen = page.evaluate(LOOK)
    assert {"tag", "end", "img", "svg"} <= set(seen["heard"]) and seen["links"] and seen["handlers"]


def evil_pair(folder, **fields):
    """A pair all of whose texts are canaries, and whose picture's path is one (a folder `x<` with a file `script>`
    is `x</script>` as a path)"""
    file = folder/"x<"/"script><img src=q onerror=canary('file')>\"'.png"
    file.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(file)
    return Pair(Example(str(file), EVIL, f"{EVIL} Right.", EVIL, EVIL), f"{EVIL} Wrong.", EVIL,
                (Edit("Right", "Wrong", EVIL, EVIL),), EVIL, **fields)


@pytest.fixture(scope="module")
def vlm(): return VLM.load(adapter="stage2")


def test_a_pair_and_the_page_of_pairs(page, still_page, tmp_path):
    pair, lost = evil_pair(tmp_path), Pair(Example("x</script><img src=q onerror=canary('gone')>.png", EVIL, "Right.",
                                                   EVIL), f"{EVIL} Wrong.", EVIL)
    assert examined(page,
                    still_page(pair._repr_html_()
                               + lost._repr_html_()))["text"].count("no image file at x</script>") == 1
    from povid_nb import pairs
    pairs.write([pair], tmp_path/"pairs.jsonl")
    inject.report_pairs(tmp_path/"pairs.jsonl", tmp_path/"report.html")
    examined(page, still_page((tmp_path/"report.html").read_text()))


def test_marked_and_compared_texts(page, still_page):
    source = (viz.mark(EVIL, wrong=["script", "img", (3, 40)], right=["canary"]).data
              + viz.diff(EVIL, f"no {EVIL[::-1]}").data)
    examined(page, still_page(source + viz.picture(Image.new("RGB", (4, 4)), EVIL)))
    title = examined(page, still_page(viz.page(EVIL, "<p>" + viz.mark(EVIL).data)))["title"]
    assert title == "Page", "the outer page keeps its title"


def test_the_report_of_a_run(page, still_page, tmp_path):
    import sys
    from pathlib import Path
    sys.path.insert(0, str(Path(__file__).parents[1]/"unit"))
    from test_report import AFTER, found
    from povid_nb import chair, measure
    models = found("base", "sft", "stage1", "stage2", splits=("typical", "counter", EVIL))
    for who in models:
        for split, of in models[who].items():
            of["captions"] = chair.score([f"{EVIL} A knife. {text}" for text in AFTER], [{"fork"}, {"ball"}, {"dog"}],
                                         measure.VOCABULARY)
            of["chair"] = of["captions"].scores()
    def fails(): raise ValueError(EVIL)
    source = report.report_page({"own": models}, EVIL, [(EVIL, EVIL, 3)], [evil_pair(tmp_path)],
                                {"sft": [{"step": 1, "loss": 1.}]},
                                [(EVIL, EVIL, fails, EVIL), (EVIL, EVIL, None, EVIL)], EVIL, {EVIL: EVIL})
    examined(page, still_page(source))


def test_a_question_of_the_course(page, still_page):
    examined(page, still_page(quiz(EVIL, {EVIL: EVIL, "no": EVIL}, EVIL)._repr_html_()))


def test_the_viewer_of_pairs(page, still_page, tmp_path):
    "Its HTML goes in as ipywidgets puts it in: as `innerHTML`"
    one = Viewer([evil_pair(tmp_path)], tmp_path/"<img src=q onerror=canary('out')>.jsonl")
    seen = [one.card.value]
    one.buttons.children[0].click()
    put = json.dumps([*seen, one.card.value, one.tally.value]).replace("<", "\\u003c")
    html = (f"<div></div><script>for (const html of {put}) {{ const p = document.createElement('div'); "
            "p.innerHTML = html; document.querySelector('div').append(p); }</script>")
    text = examined(page, still_page(html), scripts=1)["text"]
    assert "onerror=canary('out')>.jsonl" in text


def test_the_widgets(page, still_page, vlm, tmp_path):
    "Names of pictures, answers, messages, and what a model has written"
    scene = world.scenes("counter", "test", 1)[0]
    file = tmp_path/"x<"/"script><img src=q onerror=canary('file')>.png"
    file.parent.mkdir()
    scene.image().save(file)
    explorer = Explorer(vlm, [scene, str(file)], steps=[0, 500], k=4)
    assert "script>" in explorer.images[1]["name"]
    explorer.unobserve_all()
    sweep = explorer.sweeps[explorer._key()]
    explorer.images = [{**entry, "name": EVIL, "answer": EVIL} for entry in explorer.images]
    explorer.message, explorer.answer = EVIL, EVIL
    explorer.sweeps = {explorer._key(): sweep | {"words": [EVIL, *sweep["words"][1:]]}}
    examined(page, still_page(explorer.html()), scripts=1)

    looker = Looker(vlm, [str(file)], answers=[EVIL.replace("\u2028", "")])
    looker.images = [{**entry, "name": EVIL} for entry in looker.images]
    looker.message = EVIL
    examined(page, still_page(looker.html()), scripts=1)

    dial = Dial.__new__(Dial)
    import anywidget
    anywidget.AnyWidget.__init__(dial,
                                 frames=[dict(scale=s, text=EVIL, marks=[(0, 9, "wrong"), (30, 60, "right")], prob=.5)
                                         for s in (0, 1)], picture=viz._data_url(scene.image()), alt=EVIL, word=EVIL)
    examined(page, still_page(dial.html()), scripts=1)

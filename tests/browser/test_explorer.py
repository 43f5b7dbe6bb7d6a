"""The explorer in a real browser: on a page without a kernel, in Voila, and in JupyterLab.

A screenshot of each is kept in runs/tests/browser. Without Chromium these tests skip and say so
(tests/conftest.py)."""
import json, os, statistics, time
from pathlib import Path
import pytest
from povid_nb import shift, world
from povid_nb.explorer import Explorer
from povid_nb.vlm import VLM

ROOT = Path(__file__).parents[2]
OUT = ROOT/"runs"/"tests"/"browser"
pytestmark = pytest.mark.browser
NOTEBOOK = """
from povid_nb import world
from povid_nb.explorer import Explorer
from povid_nb.vlm import VLM
Explorer(VLM.load(), world.scenes("counter", "test", 2), steps=(0, 250, 500, 750, 999))
"""

@pytest.fixture(scope="module")
def vlm():
    return VLM.load()

@pytest.fixture(scope="module")
def still(vlm, still_page):
    "The address of a page with a filled explorer, served without a kernel"
    explorer = Explorer(vlm, world.scenes("counter", "test", 2), steps=(0, 250, 500, 750, 999))
    return still_page(explorer.fill().html())

def state(page):
    return page.evaluate("""() => ({picture: document.querySelector('.povid-explorer img').src,
        bars: [...document.querySelectorAll('.povid-explorer li')].map(li =>
            [li.querySelector('button').firstChild.textContent, li.querySelector('b').textContent])})""")

def move(page, step, timeout=60_000):
    "Move the slider, wait until the exact step is shown, and return what is to be seen"
    page.get_by_label("Noise step").fill(str(step))
    page.wait_for_function("step => document.querySelector('.povid-explorer output').textContent === String(step)",
                           arg=step, timeout=timeout)
    return state(page)

def shot(page, name):
    OUT.mkdir(parents=True, exist_ok=True)
    page.locator(".povid-explorer").screenshot(path=OUT/f"{name}.png")

# ---- Without a kernel -----------------------------------------------------------------------------------------------

def test_still_page(page, still):
    page.goto(still)
    clean, noisy = move(page, 0), move(page, 750)
    assert clean["picture"] != noisy["picture"] and clean["bars"] != noisy["bars"]
    assert [word for word, _ in clean["bars"]] == [word for word, _ in noisy["bars"]]     # the words keep their places
    assert move(page, 0) == clean
    shot(page, "still")
    assert not page.errors and not page.outside

def test_still_page_shows_the_sweep(page, still, vlm):
    "The numbers on the page are those of `sweep`"
    page.goto(still)
    scene = world.scenes("counter", "test", 1)[0]
    slot = shift.object_slots(scene.caption(), scene.objects)[0]
    for step in (0, 500):
        bars = move(page, step)["bars"]
        alone = shift.sweep(vlm, scene, prefix=slot.prefix, steps=[step], seeds=[0], words=[word for word, _ in bars])
        for (_, shown), p in zip(bars, alone.probs[0, 0]): assert abs(float(shown.rstrip("%")) - 100 * p) < .6

def test_still_page_says_what_it_shows_between_steps(page, still):
    page.goto(still)
    page.get_by_label("Noise step").fill("430")
    assert page.locator(".povid-explorer output").inner_text() == "430, shown 500"

def test_still_page_by_keyboard(page, still):
    "Tab reaches every control; arrows move the slider; Enter on a word predicts from there"
    page.goto(still)
    slider = page.get_by_label("Noise step")
    slider.focus(); page.keyboard.press("End")
    assert page.locator(".povid-explorer output").inner_text() == "999"
    page.keyboard.press("ArrowLeft")
    assert slider.input_value() == "998" and slider.get_attribute("aria-valuetext") == "step 998 of 999"
    before = state(page)["bars"]
    words = page.locator(".povid-sentence button:not([disabled])")
    words.last.focus(); page.keyboard.press("Enter")
    assert words.last.get_attribute("aria-pressed") == "true" and state(page)["bars"] != before
    # the focus stays where it was
    assert page.evaluate("document.activeElement.closest('.povid-sentence') !== null")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName + (document.activeElement.className || "
                                  "document.activeElement.type || '')"))
    assert {"INPUTrange", "SELECTpovid-image", "SELECTpovid-space"} <= reached

def test_still_page_for_screen_readers(page, still):
    page.goto(still); move(page, 500)
    assert page.get_by_role("slider", name="Noise step").count() == 1
    assert page.locator(".povid-explorer img").get_attribute("alt") == "The image at noise step 500"
    for name in ("Image", "Noise in", "Overflow", "Seed"): assert page.get_by_role("combobox", name=name).count() == 1
    page.wait_for_function("document.querySelector('[role=status]').textContent.startsWith('At noise step 500: ')")
    assert page.get_by_role("list", name="Probabilities of the next word").get_by_role("listitem").count() >= 5
    # roles in words, not in colour alone
    assert "right here" in page.locator(".povid-explorer ol").inner_text()

def test_still_page_offers_only_what_it_knows(page, still):
    page.goto(still)
    assert page.locator(".povid-overflow option:not([disabled])").all_inner_texts() == ["clamp"]
    before = move(page, 500)
    page.get_by_label("Noise in").select_option("processed")
    assert state(page) != before and page.get_by_label("Overflow").is_disabled()
    page.locator(".povid-image").select_option("1")
    assert not page.get_by_label("Own beginning").is_visible() and not page.errors

def at_once(page, steps):
    "Milliseconds from a slider move to the picture and bars of the nearest measured step"
    return page.evaluate("""steps => { const slider = document.querySelector('.povid-slider input');
        return steps.map(k => {
            const t = performance.now();
            slider.value = k;
            slider.dispatchEvent(new Event('input'));
            return performance.now() - t; }); }""", list(steps))

def test_still_page_moves_fast(page, still):
    page.goto(still); move(page, 0)
    record("still", at_once(page, range(0, 1000, 37)))

def record(name, times):
    "Times are kept beside the screenshots; no test asserts a time"
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT/f"{name}.times.json").write_text(json.dumps(dict(median_ms=round(statistics.median(times), 2),
                                                          worst_ms=round(max(times), 2), n=len(times))))

# ---- With a kernel --------------------------------------------------------------------------------------------------

def live_explorer(page, name):
    "What a visitor with a kernel can do"
    page.wait_for_selector(".povid-explorer li", timeout=120_000)
    clean, between = move(page, 0), move(page, 613)                     # 613 is in no sweep: the kernel answers
    assert clean["picture"] != between["picture"] and clean["bars"] != between["bars"]
    page.get_by_label("Overflow").select_option("wrap")
    page.wait_for_function("picture => document.querySelector('.povid-explorer img').src !== picture",
                           arg=between["picture"], timeout=60_000)
    bars = state(page)["bars"]
    page.locator(".povid-sentence button").nth(1).click()               # predict from the second word on
    page.wait_for_function("words => document.querySelector('.povid-explorer li button').firstChild.textContent "
                           "!== words", arg=bars[0][0], timeout=60_000)
    times = []
    for step in range(40, 1000, 91):
        begin = time.perf_counter(); move(page, step); times.append(1000 * (time.perf_counter() - begin))
    record(f"{name}.exact", times); record(f"{name}.at_once", at_once(page, range(0, 1000, 37)))
    move(page, 613); shot(page, name)
    assert not page.errors

def test_voila(page, serve):
    address = serve(NOTEBOOK, "voila", "page.ipynb", "--no-browser", "--port={port}", "--Voila.ip=127.0.0.1",
                    ready="/voila/static/voila.js")
    page.goto(address, timeout=120_000)
    live_explorer(page, "voila")

def test_jupyterlab(page, serve):
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    address = serve(NOTEBOOK, "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port={port}",
                    "--ServerApp.port_retries=0", "--IdentityProvider.token=t",
                    "--LabApp.expose_app_in_browser=True", *root, ready="/api/status?token=t")
    page.goto(f"{address}/lab/tree/page.ipynb?reset&token=t", timeout=120_000)
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=120_000)
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status "
                           "=== 'idle'", timeout=120_000)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    live_explorer(page, "jupyterlab")

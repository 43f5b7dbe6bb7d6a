"""The looker in a real browser: on a page without a kernel, and in Voila with one. A screenshot of each is kept in
runs/tests/browser."""
from pathlib import Path
import numpy as np, pytest

AVERAGE = (None, None)
OUT = Path(__file__).parents[2]/"runs"/"tests"/"browser"
pytestmark = pytest.mark.browser
TUNED = """
import torch
from peft import LoraConfig, get_peft_model
from povid_nb import world
from povid_nb.looker import Looker
from povid_nb.vlm import VLM
vlm = VLM.load()
torch.manual_seed(0)
lora = LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, target_modules=r".*language_model.*[.](q_proj|v_proj)")
vlm.model = get_peft_model(vlm.model, lora).eval()
answers = ["A red cone is at the bottom.", "There is a red car at the top right."]
looker = Looker(vlm, world.scenes("counter", "test", 2), answers=answers)
"""

@pytest.fixture(scope="module")
def looker():
    names = {}
    exec(TUNED, names)
    return names["looker"]

@pytest.fixture(scope="module")
def still(looker, still_page): return still_page(looker.html())

def state(page):
    "What is to be seen: for each panel its caption, its sentence, and how dark each patch is"
    return page.evaluate("""() => [...document.querySelectorAll('.povid-looker figure')].map(f => ({
        name: f.querySelector('figcaption').textContent,
        said: f.querySelector('output').textContent,
        alt: f.querySelector('img').alt,
        dark: [...f.querySelectorAll('i')].map(i => Number(i.style.getPropertyValue('--dark'))),
        told: [...f.querySelectorAll('i')].map(i => parseFloat(i.title.split(': ')[1]))}))""")

def shot(page, name):
    OUT.mkdir(parents=True, exist_ok=True)
    page.locator(".povid-looker").screenshot(path=OUT/f"{name}.png")

def expected(looker, word, view, image=0):
    looks = looker.found[looker.images[image]["key"]]
    return {name: look.map(word, view) for name, look in looks.items()}

# ---- Without a kernel -----------------------------------------------------------------------------------------------

def test_still_page_shows_the_look(page, still, looker):
    "Base and tuned side by side, with the numbers of `look`, for the average, a layer and a head"
    page.goto(still)
    for layer, head, view in (("average", None, AVERAGE), ("layer 2", "average", (2, None)),
                              ("layer 2", "head 4", (2, 4))):
        page.get_by_label("Layer").select_option(layer)
        if head: page.get_by_label("Head").select_option(head)
        for word in ("red", "cone"):
            page.locator(".povid-words button", has_text=word).click()
            maps, panels = expected(looker, word, view), state(page)
            assert [p["name"] for p in panels] == list(maps) == ["base", "tuned"]
            top = max(m.max() for m in maps.values())
            for panel, values in zip(panels, maps.values()):
                # one byte for each patch
                assert np.allclose(panel["told"], 100 * values, atol=100 * top / 255 + .011)
                # one scale for both
                assert np.allclose(panel["dark"], .82 * (1 - values / top), atol=.01)
                row, column = divmod(int(values.argmax()), 6)
                assert f"most at row {row + 1}, column {column + 1}" in panel["said"]
                assert panel["alt"].endswith(panel["said"])
    shot(page, "looker-still")
    assert not page.errors and not page.outside

def test_still_page_changes_the_picture(page, still, looker):
    page.goto(still)
    before = page.locator(".povid-looker img").first.get_attribute("src")
    page.get_by_label("Image").select_option("1")
    assert page.locator(".povid-words").inner_text().split() == "There is a red car at the top right".split()
    assert page.locator(".povid-looker img").first.get_attribute("src") != before
    # begins at the first thing that is named
    assert page.locator(".povid-words [aria-pressed=true]").inner_text() == "car"
    assert np.allclose(state(page)[1]["told"], 100 * expected(looker, "car", AVERAGE, 1)["tuned"], atol=.1)

def test_still_page_by_keyboard(page, still):
    page.goto(still)
    words = page.locator(".povid-words button")
    words.nth(1).focus(); page.keyboard.press("Enter")
    assert words.nth(1).get_attribute("aria-pressed") == "true"
    assert page.evaluate("document.activeElement.textContent") == "red"
    page.keyboard.press("Tab"); page.keyboard.press("Enter")
    assert words.nth(2).get_attribute("aria-pressed") == "true"
    assert page.locator(".povid-looker [role=status]").inner_text().startswith("cone, average: base")
    # nobody would answer; an average has no head
    assert page.get_by_label("Own answer").is_hidden() and page.get_by_label("Head").is_disabled()

def test_small_enough(looker): assert len(looker.html()) < 150_000

# ---- With a kernel --------------------------------------------------------------------------------------------------

def test_voila(page, serve, looker):
    address = serve(TUNED + "looker", "voila", "page.ipynb", "--no-browser", "--port={port}", "--Voila.ip=127.0.0.1",
                    ready="/voila/static/voila.js")
    page.goto(address, timeout=120_000)
    page.wait_for_selector(".povid-looker figure", timeout=120_000)
    page.get_by_label("Layer").select_option("layer 1"); page.get_by_label("Head").select_option("head 0")
    page.locator(".povid-words button", has_text="cone").click()
    page.wait_for_function("() => document.querySelector('.povid-looker "
                           "[role=status]').textContent.startsWith('cone, layer 1, head 0') && "
                           "!document.querySelector('.povid-looker [role=status]').textContent.endsWith('...')",
                           timeout=60_000)
    # exact, in two decimals
    for panel, values in zip(state(page), expected(looker, "cone", (1, 0)).values()):
        assert np.allclose(panel["told"], 100 * values, atol=.0051)
    page.get_by_label("Own answer").fill("A white bicycle is on the left."); page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('.povid-words').textContent.includes('bicycle')",
                           timeout=60_000)
    assert page.locator(".povid-words [aria-pressed=true]").inner_text() == "bicycle"
    page.get_by_label("Own answer").fill("A <image>"); page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('.povid-looker [role=alert]').textContent.includes('stands "
                           "for the picture')", timeout=60_000)
    shot(page, "looker-voila")
    assert not page.errors

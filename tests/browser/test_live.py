"""The live page in Chromium, from a static server on this machine, with the network cut off: what it writes is what
Python writes.

Needs what `make live` builds, and skips without it."""
import re
from pathlib import Path
import pytest
from povid_nb import world
from povid_nb.serve import _start
from povid_nb.vlm import VLM

BUILT = Path(__file__).parents[2]/"build"/"live"
pytestmark = [pytest.mark.browser,
              pytest.mark.skipif(not (BUILT/"live.html").exists(), reason="needs the live page: make live")]
WAIT = 120_000


@pytest.fixture(scope="module")
def address():
    server = _start({"": BUILT})
    yield f"http://127.0.0.1:{server.server_port}/live.html"
    server.shutdown()


def settled(page, address, place=""):
    page.goto(address + place)
    page.wait_for_function("document.getElementById('verdict').textContent && document.querySelector('#bars li') && "
                           "document.getElementById('loss').textContent", timeout=WAIT)
    return page.inner_text("#caption").strip()


def changed(page, selector, before):
    page.wait_for_function("([selector, before]) => document.querySelector(selector).innerText.trim() !== before",
                           arg=[selector, before], timeout=WAIT)


def write_again(page, act):
    "Do something, and wait for the whole of the next description"
    page.evaluate("document.getElementById('verdict').textContent = ''")
    act()
    page.wait_for_function("document.getElementById('verdict').textContent", timeout=WAIT)
    return page.inner_text("#caption").strip()


def test_it_invents_and_the_dial_cures(page, address):
    "The scene is composed in the page; the words are those that Python writes of the page's own picture"
    before = settled(page, address)
    assert page.locator("#caption .wrong").all_inner_texts() == ["knife"] and "knife" in page.inner_text("#verdict")
    after = write_again(page, lambda: page.get_by_label("Dial").fill("1"))
    assert after != before and page.locator("#caption .wrong").count() == 0 and "dial=1" in page.url
    assert page.inner_text("#verdict") == "It names only what is there."
    assert not page.errors and not page.outside


def test_its_numbers_are_pythons(page, address):
    "A scene of the course whose picture the page draws exactly: the description, and the bars at its first thing"
    scene = world.scenes("counter", "test", 2)[1]
    text = settled(page, address, "#course=counter/test/1")
    vlm = VLM.load()
    assert text == vlm.describe(scene)
    prefix = " ".join(page.evaluate("[...document.querySelectorAll('#caption button')].slice(0, "
                                    "[...document.querySelectorAll('#caption button')].findIndex(b => b.ariaPressed "
                                    "=== 'true')).map(b => b.textContent)"))
    words = [re.match(r"\S+", row)[0] for row in page.locator("#bars li span:first-child").all_inner_texts()]
    likely = vlm.next_tokens(scene, prefix=prefix, k=8)
    assert words[0] == likely[0].text and set(words[:3]) == {word.text for word in likely[:3]}
    shown = float(page.locator("#bars li b").first.inner_text().strip(" %")) / 100
    assert shown == pytest.approx(likely[0].prob, abs=.03)                       # some edges of the drawing differ


def test_noise_moves_picture_and_bars(page, address):
    settled(page, address)
    look = "document.getElementById('picture').toDataURL()"
    clean, bars = page.evaluate(look), page.inner_text("#bars").strip()
    slider = page.get_by_label("Step")
    slider.focus(); page.keyboard.press("End")
    changed(page, "#bars", bars)
    assert page.evaluate(look) != clean
    assert page.inner_text("#step-value") == "999"
    assert slider.get_attribute("aria-valuetext") == "step 999 of 999"
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#step-value") == "998" and "noise=998" in page.url


def test_a_scene_is_composed_by_keyboard_alone(page, address):
    settled(page, address)
    place = page.get_by_role("button", name="in the middle: empty")
    page.get_by_text("Things to add").focus(); page.keyboard.press("Enter")
    page.get_by_role("button", name="cup", exact=True).focus(); page.keyboard.press("Enter")
    place.focus()
    text = write_again(page, lambda: page.keyboard.press("Enter"))
    assert page.get_by_role("button", name="in the middle: blue cup").count() == 1
    assert "blue.cup.4" in page.url
    assert text
    write_again(page, lambda: page.get_by_label("colour").select_option("red"))
    assert "red.cup.4" in page.url
    page.get_by_role("button", name="in the middle: red cup").focus()
    write_again(page, lambda: page.keyboard.press("Delete"))
    assert "cup" not in page.url and not page.errors


def test_a_thing_is_dragged(page, address):
    settled(page, address)
    box = page.locator("#places").bounding_box()
    at = lambda column, row: (box["x"] + box["width"] * (column + .5) / 3, box["y"] + box["height"] * (row + .5) / 3)
    def drag():
        page.mouse.move(*at(0, 1))
        page.mouse.down(); page.mouse.move(*at(1, 1), steps=4); page.mouse.move(*at(2, 0), steps=4); page.mouse.up()
    write_again(page, drag)
    assert "grey.fork.2" in page.url


def test_a_word_is_pressed(page, address):
    settled(page, address)
    bars = page.inner_text("#bars").strip()
    page.locator("#caption button").nth(1).focus(); page.keyboard.press("Enter")
    changed(page, "#bars", bars)
    assert page.locator("#caption button[aria-pressed=true]").count() == 1 and "at=1" in page.url
    page.get_by_label("show where it looks").check()
    page.wait_for_function("document.querySelectorAll('#look i').length === 36", timeout=WAIT)


def test_fifty_scenes_and_a_stop(page, address):
    settled(page, address)
    page.get_by_role("button", name="Describe 50 scenes").click()
    page.wait_for_function("Number(document.querySelector('#scores td:nth-child(2)')?.textContent) >= 3", timeout=WAIT)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Describe 50 scenes").wait_for(timeout=WAIT)
    assert page.locator("#scores tbody tr").count() == 1


def test_the_loss_follows_the_sentence(page, address):
    settled(page, address, "#dial=1")
    before = page.inner_text("#loss").strip()
    page.locator("#rejected").fill("A photo of a table. There is a red bus on the left.")
    changed(page, "#loss", before)
    assert re.search(r"loss −log σ\(margin\) = \d\.\d{3}", page.inner_text("#loss"))
    page.locator("#rejected").fill("")
    page.wait_for_function("document.getElementById('loss').textContent === 'Both answers need words.'", timeout=WAIT)


def test_it_fits_a_phone(browser, address):
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    settled(tab, address)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.close()

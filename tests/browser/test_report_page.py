"The report of a run in a real browser"
import sys
from pathlib import Path
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]/"unit"))
from test_report import EVIL, a_pair, found   # noqa: E402
from povid_nb import report   # noqa: E402

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def source():
    models = found("base", "sft", "stage1", "stage2")
    return report.report_page({"own": models, "clean": models}, EVIL, [(EVIL, EVIL, 1)], [a_pair(EVIL)],
                              settings={"a": "b" * 300})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen_and_runs_nothing(page, still_page, source, width, scheme):
    dialogs = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(dict(width=width, height=844))
    page.goto(still_page(source))
    assert page.evaluate("document.documentElement.scrollWidth") <= width and not dialogs
    first = page.locator("img").first.bounding_box()
    assert first["y"] + first["height"] < 844 and first["width"] > 300          # a chart on the first screen
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nor do the folded parts overflow"
    ink, paper = page.evaluate("[getComputedStyle(document.body).color, matchMedia('(prefers-color-scheme: "
                               "dark)').matches]")
    assert paper == (scheme == "dark") and (ink == "rgb(0, 0, 0)") == (scheme == "light")

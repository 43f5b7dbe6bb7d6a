"""The site's pages on a desk and on a phone, in light and in dark: does anything push the page sideways, what does
axe-core find, does each question answer a click, and what does a page weigh?

    python -m tools.pages FOLDER      # renders the pages
    python -m tools.widths FOLDER     # opens each of them; writes bench/results/site.json

Needs Chromium, and axe-core from npm (`npm ci` in live/). The pages are those that pandoc renders, with the site's own
styles.css, the classes that Quarto gives a light and a dark page, and the ground, text and links of its dark theme
(darkly). The rest of Quarto's themes is not there: contrast is that of these colours, and of what the pages bring with
them. A page's weight is what it fetches, pictures included, and without Quarto's own scripts.
"""
import json, os, shutil, sys
from collections import Counter
from pathlib import Path
from povid_nb import stats
from povid_nb.serve import _start
from tools.live import LIVE, ROOT

RESULT, AXE = ROOT/"bench"/"results"/"site.json", LIVE/"node_modules"/"axe-core"/"axe.min.js"
SIZES = {"phone": dict(width=390, height=844), "desk": dict(width=1280, height=900)}
WIDE = """() => {
  const limit = document.documentElement.clientWidth;
  const scrolls = el => ['auto', 'scroll', 'hidden'].includes(getComputedStyle(el).overflowX);
  const called = el => el.className && typeof el.className === 'string' ? '.' + el.className.split(' ')[0] : '';
  const wide = [...document.querySelectorAll('body *')].filter(el => {
    const box = el.getBoundingClientRect(); if (box.right <= limit + 1 || !box.width) return false;
    for (let up = el.parentElement; up && up !== document.body; up = up.parentElement) if (scrolls(up)) return false;
    return true; });
  return [document.documentElement.scrollWidth - limit,
          wide.slice(0, 3).map(el => el.tagName.toLowerCase() + called(el))]; }"""
DARK = "body.quarto-dark {background: #222; color: #fff} body.quarto-dark a {color: #00bc8c}"
ASK = """() => { const wrong = [], all = [...document.querySelectorAll('.povid-quiz')];
  for (const quiz of all) for (const label of quiz.querySelectorAll('label')) { label.click();
    const said = [...quiz.querySelectorAll('p')].filter(p => getComputedStyle(p).display !== 'none');
    const row = label.parentElement, verdict = row.classList.contains('povid-right') ? 'Right.' : 'No.';
    const right = said.length === 1 && said[0].parentElement === row && said[0].textContent.trim().startsWith(verdict);
    if (!right) wrong.push(label.textContent); }
  return [all.length, wrong]; }"""
WEIGHT = ("() => ['resource', 'navigation'].flatMap(kind => performance.getEntriesByType(kind)).reduce((sum, one) => "
          "sum + one.transferSize, 0)")
FINDINGS = ("only => axe.run(document, {resultTypes: ['violations'], ...only}).then(r => r.violations.filter(v => "
            "['serious', 'critical'].includes(v.impact)).map(v => [v.id, v.nodes.length, v.nodes[0].html.slice(0, "
            "160)]))")


def look(browser, address, names):
    """{page: what is wrong with it}, for each size and scheme, {page: bytes}, and how many questions were asked;
    each page is loaded once"""
    found, weight, asked = {name: {} for name in names}, {}, 0
    tab = browser.new_page()
    tab.route("**/*",
              lambda route: route.continue_() if route.request.url.startswith(("http://127.0.0.1", "data:", "blob:"))
              else route.abort())
    for name in names:
        tab.goto(f"{address}/{name}", wait_until="load", timeout=120_000)
        if name != "live.html":
            weight[name] = tab.evaluate(WEIGHT)
            tab.add_style_tag(path=ROOT/"nbs"/"styles.css")
            tab.add_style_tag(content=DARK
                              + " :root {color-scheme: light dark} html, body {max-width: 60rem; padding: 0 12px; "
                                "box-sizing: border-box}")
            questions, wrong = tab.evaluate(ASK)
            asked += questions
            if wrong: found[name]["a question without its answer"] = wrong
        tab.add_script_tag(path=AXE)
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            if name != "live.html":
                tab.evaluate("dark => { for (const kind of ['light', 'dark']) "
                             "document.body.classList.toggle(`quarto-${kind}`, kind === dark) }", scheme)
            for size, viewport in SIZES.items():
                tab.set_viewport_size(viewport)
                over, which = tab.evaluate(WIDE)
                if over > 0: found[name][f"{size} {scheme}: pushed sideways by {over} px"] = which
            only = {} if scheme == "light" else {"runOnly": ["color-contrast"]}
            print(".", end="", flush=True)
            for rule, count, example in tab.evaluate(FINDINGS, only):
                found[name].setdefault(f"axe: {rule} ({scheme})", [count, example])
    return found, weight, asked


def main(folder):
    from playwright.sync_api import sync_playwright
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium or not AXE.exists(): sys.exit("needs Chromium, and axe-core: npm ci in live/")
    names = sorted(str(file.relative_to(folder)) for file in Path(folder).rglob("*.html"))
    server = _start({"": Path(folder)})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium,
                                             args=["--disable-dev-shm-usage", *["--no-sandbox"] * (os.geteuid() == 0)])
        found, weight, asked = look(browser, f"http://127.0.0.1:{server.server_port}", names)
        browser.close()
    server.shutdown()
    kinds = Counter("pushed sideways" if "sideways" in kind else kind for page in found.values() for kind in page)
    heavy = {name: size for name, size in weight.items() if size > 1e6}
    bad = {name: faults for name, faults in found.items() if faults}
    result = dict(pages=len(names), sound=len(names) - len(bad), findings=dict(kinds), questions=asked,
                  heaviest=max(weight.values()), over_1_mb=heavy, faults=bad, command="python -m tools.widths FOLDER",
                  versions=stats.versions())
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(names)} pages, {len(names) - len(bad)} with nothing found; pages with: {dict(kinds)}; {asked} "
          f"questions clicked; the heaviest page {max(weight.values()) / 1e3:,.0f} kB")
    for name, faults in bad.items(): print(name, *(f"\n    {kind}: {what}" for kind, what in faults.items()))


if __name__ == "__main__": main(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__)

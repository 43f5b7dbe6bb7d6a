"""How fast the live page is: opened in Chromium, from a server on this machine, with everything else cut off.

    python -m tools.live_times                     # after `make live`; writes bench/results/live-times.json
    python -m tools.live_times --shots FOLDER      # instead: six pictures of the page, desk and phone
    python -m tools.live_times --still             # instead: the picture for readers without the page,
    nbs/images/live.png

One thread, as on any static host. Times belong to the machine, and to what else it was doing: so the processor's time
that Chromium used, all its processes together, stands beside each.
"""
import argparse, contextlib, json, os, platform, shutil, statistics, sys, time
from pathlib import Path
import psutil
from PIL import Image
from povid_nb import stats
from povid_nb.serve import _start
from tools.live import OUT, ROOT

RESULT, STILL = ROOT/"bench"/"results"/"live-times.json", ROOT/"nbs"/"images"/"live.png"
SPEAK = """async () => {
  const worker = new Worker('worker.js', {type: 'module'}), waiting = new Map();
  let id = 0;
  worker.onmessage = ({data}) => waiting.get(data.id)(data);
  const ask = (verb, args, part = () => {}) => new Promise(done => {
    waiting.set(++id, data => 'part' in data ? part() : done(data.value));
    worker.postMessage({id, verb, args}); });
  const kinds = ['car', 'bus', 'dog', 'clock', 'tree'];
  const things = kinds.map((kind, i) => ({place: 2 * i, colour: 'red', kind}));
  const pixels = await ask('draw', {scene: {context: 'street', seed: 'by hand', things}});
  const noise = {step: 600, seed: 0, space: 'pixels', overflow: 'clamp'};
  const how = {picture: {key: 'one', id: '', pixels}, noise, adapter: 'stage2', scale: 0};
  const runs = [];
  for (let run = 0; run < 5; run++) {
    const times = [performance.now()];
    await ask('write', how, () => times.push(performance.now()));
    if (times.length > 45) runs.push(times[45] - times[0]); }
  worker.terminate(); return runs; }"""
SLIDE = """async () => {
  const slider = document.getElementById('step'), bars = document.getElementById('bars'), times = [];
  for (let step = 30; step < 1000; step += 29) {
    const begin = performance.now();
    const drawn = new Promise(done => {
      const watch = new MutationObserver(() => { watch.disconnect(); done(); });
      watch.observe(bars, {childList: true}); });
    slider.value = step; slider.dispatchEvent(new Event('input')); await drawn;
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - begin);
    await new Promise(done => setTimeout(done, 60));
  } return times; }"""


def used():
    "Seconds of processor time of all processes that were started from here"
    return sum(sum(child.cpu_times()[:2]) for child in psutil.Process().children(recursive=True))


def quiet():
    "Wait until Chromium has done what a new window costs it, whatever the page"
    for _ in range(60):
        before = used()
        time.sleep(.5)
        if used() - before < .05: return


def first_caption(browser, address):
    "Seconds from opening the page, with an empty cache, to the first word and to the whole of the first description"
    page = browser.new_page()
    quiet()
    outside = []
    page.route("**/*",
               lambda route: route.continue_() if route.request.url.startswith("http://127.0.0.1")
               else (outside.append(route.request.url), route.abort()))
    begin, before = time.perf_counter(), used()
    page.goto(address)
    page.wait_for_function("document.querySelector('#caption button')", timeout=120_000)
    word = time.perf_counter() - begin
    page.wait_for_function("document.getElementById('verdict').textContent", timeout=120_000)
    whole, cpu = time.perf_counter() - begin, used() - before
    if outside: sys.exit(f"the page asked for {outside[0]}, which is not on this machine")
    return page, word, whole, cpu


SHOTS = [("1-desk-invents", "desk", "light", ""), ("2-desk-tuned", "desk", "light", "#dial=1"),
         ("3-desk-noise-dark", "desk", "dark", "#noise=600"),
         ("4-phone-invents", "phone", "light", ""), ("5-phone-tuned-dark", "phone", "dark", "#dial=1"),
         ("6-phone-scene", "phone", "light", "#course=counter/test/3")]


def shown(browser, address, width, height, scheme="light"):
    "The page when it has said all it says at first"
    page = browser.new_page(viewport=dict(width=width, height=height), color_scheme=scheme)
    page.goto(address)
    page.wait_for_function("document.querySelector('#verdict').textContent && "
                           "document.querySelector('#loss').textContent", timeout=120_000)
    page.wait_for_timeout(1500)
    return page


def shots(browser, address, folder):
    "Six pictures of the page: desk and phone, light and dark"
    folder.mkdir(parents=True, exist_ok=True)
    for name, size, scheme, place in SHOTS:
        page = shown(browser, address + place, *dict(desk=(1280, 1000), phone=(390, 844))[size], scheme)
        page.screenshot(path=folder/f"{name}.png", full_page=True)
        page.close()


def still(browser, address):
    "The picture, and what is said of it, in few colours"
    page = shown(browser, address, 1000, 900)
    page.add_style_tag(content="#scene > :not(h2, .stage) {visibility: hidden}")
    scene, said = page.locator(".stage").bounding_box(), page.locator("#say").bounding_box()
    x, y = scene["x"] - 12, said["y"]
    page.screenshot(path=STILL, clip=dict(x=x, y=y, width=said["x"] + said["width"] - x, height=said["height"]))
    Image.open(STILL).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(STILL, optimize=True)


@contextlib.contextmanager
def opened():
    "Chromium, and the address of the page on a server of this machine"
    from playwright.sync_api import sync_playwright
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium: sys.exit("Chromium was not found")
    if not (OUT/"live.html").exists(): sys.exit(f"{OUT} has no page: run `make live` first")
    server = _start({"": OUT})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium,
                                             args=["--disable-dev-shm-usage", *["--no-sandbox"] * (os.geteuid() == 0)])
        yield browser, f"http://127.0.0.1:{server.server_port}/live.html"
        browser.close()
    server.shutdown()


def measure(browser, address):
    "The figures, each the median of several, with what the machine was doing"
    words, wholes, cpus = [], [], []
    for _ in range(5):
        context = browser.new_context(viewport=dict(width=1280, height=1000))
        page, word, whole, cpu = first_caption(context, address)
        words.append(word); wholes.append(whole); cpus.append(cpu)
        page.wait_for_function("document.querySelector('#loss').textContent", timeout=120_000)
        if len(words) < 5: context.close()
    page.wait_for_timeout(2000)
    speak, before = page.evaluate(SPEAK), used()
    slide = page.evaluate(SLIDE)
    slide_cpu = (used() - before) / len(slide)
    middle = lambda values, digits: round(statistics.median(values), digits)
    return dict(first_word_s=middle(words, 2), first_caption_s=middle(wholes, 2),
                first_caption_of_each_s=[round(whole, 2) for whole in wholes],
                tokens_45_ms=middle(speak, 0), slider_to_bars_ms=middle(slide, 0), worst_slider_ms=round(max(slide)),
                processor=dict(first_caption_s=middle(cpus, 2), slider_to_bars_ms=round(1000 * slide_cpu)),
                n=dict(openings=len(wholes), captions=len(speak), slides=len(slide)),
                browser=f"Chromium {browser.version}",
                machine=f"{platform.machine()}, {os.cpu_count()} cores", load=round(os.getloadavg()[0], 1),
                versions=stats.versions(), command="python -m tools.live_times")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shots", type=Path, metavar="FOLDER")
    parser.add_argument("--still", action="store_true")
    args = parser.parse_args()
    with opened() as (browser, address):
        if args.still: return still(browser, address)
        if args.shots: return shots(browser, address, args.shots)
        result = measure(browser, address)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__": main()

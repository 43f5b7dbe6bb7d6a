"What all tests share: no network, few threads, markers, and a Chromium where there is one"
import os, shutil, socket

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", MPLBACKEND="Agg",
                  OMP_WAIT_POLICY="PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

def name_operators():
    """torchvision from PyPI wants CUDA; beside a torch for CPUs its Python part runs once its operators have names

    Only with it can the processors be tested that read pictures through torchvision alone (LFM2-VL).
    """
    import importlib.util, re, torch
    there = importlib.util.find_spec("torchvision")
    if not there: return
    try: import torchvision   # noqa: F401
    except RuntimeError:
        text = open(f"{there.submodule_search_locations[0]}/_meta_registrations.py").read()
        library = torch.library.Library("torchvision", "DEF")
        for name in set(re.findall(r'register_(?:meta|fake)\("(?:torchvision::)?(\w+)"', text)):
            library.define(f"{name}(Tensor a) -> Tensor")
        return library


KEPT = name_operators()
import pytest   # noqa: E402  (after the environment is set, for plugins that import torch)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes, too")


def has_cuda():
    import torch
    return torch.cuda.is_available()


def chromium_path():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def pytest_collection_modifyitems(config, items):
    "Skips what this machine cannot run, and says why"
    reasons = {}
    if not config.getoption("--slow"): reasons["slow"] = "takes minutes: run with --slow"
    if not chromium_path(): reasons["browser"] = "needs Chromium (Debian: apt-get install chromium)"
    if any(item.get_closest_marker("cuda") for item in items) and not has_cuda():
        reasons["cuda"] = "needs an NVIDIA GPU"
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker): item.add_marker(pytest.mark.skip(reason=reason))


# ---- No network -----------------------------------------------------------------------------------------------------

class NetworkTouched(OSError):
    "A test tried to leave this machine"


def is_local(host):
    return (host in (None, "", "localhost", "0.0.0.0", "::1", "::", socket.gethostname())
            or str(host).startswith("127."))


def guard(host):
    if isinstance(host, bytes): host = host.decode()
    if not is_local(host): raise NetworkTouched(f"a test tried to reach {host!r}; tests must not leave this machine")


@pytest.fixture(autouse=True, scope="session")
def no_network():
    "Looking up or connecting to any other machine fails at once"
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6): guard(address[0])
        return connect(self, address)

    def guarded_look_up(host, *args, **kwargs):
        guard(host)
        return look_up(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        yield


# ---- Chromium -------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="session")
def browser():
    "A headless Chromium, through Playwright"
    if not chromium_path(): pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    args = ["--disable-dev-shm-usage"]
    if os.geteuid() == 0: args.append("--no-sandbox")   # Chromium's sandbox refuses to run as root
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_path(), args=args)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A fresh page that can reach this machine only. `page.outside` lists what it asked for elsewhere,
    `page.errors` its errors"""
    tab = browser.new_page(viewport={"width": 1280, "height": 1600})
    tab.outside, tab.errors = [], []

    def local_only(route):
        url = route.request.url
        if url.startswith(("http://127.0.0.1", "http://localhost", "file:", "data:", "blob:")):
            return route.continue_()
        tab.outside.append(url)
        route.abort()

    tab.route("**/*", local_only)
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    yield tab
    tab.close()

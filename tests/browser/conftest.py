"What the browser tests share: a page without a kernel, and servers with one"
import functools, http.server, os, socket, subprocess, sys, threading, time, urllib.request
from pathlib import Path
import nbformat, pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def still_page(tmp_path_factory):
    "Serves a piece of HTML as a page, without a kernel; returns its address"
    servers = []
    def start(html):
        folder = tmp_path_factory.mktemp("page")
        (folder/"index.html").write_text(f"<!doctype html><html lang=en><meta "
                                         f"charset=utf-8><title>Page</title>{html}</html>")
        quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0),
                                                       functools.partial(quiet, directory=str(folder))))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/index.html"
    yield start
    for server in servers: server.shutdown()


def free_port():
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); return s.getsockname()[1]


@pytest.fixture
def serve(tmp_path):
    "Starts a server on a notebook of one cell, in folders of its own; returns its address once it answers"
    started = []
    def start(code, *command, ready):
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code.strip())],
                       metadata={"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}),
                       tmp_path/"page.ipynb")
        settings = tmp_path/"settings"/"@jupyterlab"/"apputils-extension"; settings.mkdir(parents=True)
        (settings/"notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
        own = {name: str(tmp_path/name.lower())
               for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR")}
        environment = os.environ | own | {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path/"settings"), "HF_HUB_OFFLINE": "1",
                      "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                                          "PYTHONPATH": str(ROOT)}
        port = free_port()
        log = open(tmp_path/"server.log", "w")
        started.append(subprocess.Popen([sys.executable, "-m", *(part.format(port=port) for part in command)],
                                        cwd=tmp_path, env=environment, stdout=log, stderr=log))
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while time.monotonic() < deadline:
            try: urllib.request.urlopen(address + ready, timeout=60); return address
            except OSError:
                if started[-1].poll() is not None: break
                time.sleep(.3)
        raise AssertionError("the server did not start: " + (tmp_path/"server.log").read_text()[-2000:])
    yield start
    for process in started: process.terminate(); process.wait(20)

"Ranks, whole files, locks and signals, with real processes"
import json, os, signal, subprocess, sys, threading, time
from pathlib import Path
import pytest
from povid_nb import procs

pytestmark = pytest.mark.attack

WRITER = """
import json, sys
from povid_nb.procs import write_json
path, name, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
for i in range(times): write_json(path, {"by": name, "i": i, "pad": name * 2000})
"""


def start(code, *args, **kwargs):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **kwargs)


@pytest.mark.parametrize("times", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_two_processes_write_one_file_and_no_reader_sees_half(tmp_path, times):
    path = tmp_path/"one.json"
    writers = [start(WRITER, path, name, times) for name in "ab"]
    seen = set()
    while any(w.poll() is None for w in writers):
        try: found = json.loads(path.read_text())
        except FileNotFoundError: continue                     # before the first write
        assert found["pad"] == found["by"] * 2000
        seen.add((found["by"], found["i"]))
    for w in writers: assert w.returncode == 0, w.stderr.read()
    assert len(seen) > 50, "the reader did not read while the two wrote"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.json"]


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path):
    path = tmp_path/"kept.txt"
    procs.write_text(path, "old")
    code = ("import sys, time\nfrom povid_nb.procs import write_with\n"
            "def slow(part):\n    part.write_text('half'); print('writing', flush=True); time.sleep(60)\n"
            "write_with(sys.argv[1], slow)")
    writer = start(code, path)
    assert writer.stdout.readline() == "writing\n"
    writer.kill(); writer.wait()
    assert path.read_text() == "old"
    procs.write_text(path, "new")
    assert path.read_text() == "new"


def test_text_bytes_and_tensors_come_back_as_they_were(tmp_path):
    import torch
    from safetensors.torch import load_file
    procs.write_text(tmp_path/"a.txt", "größe\r\n")
    assert (tmp_path/"a.txt").read_bytes() == "größe\r\n".encode()
    w = torch.arange(6.).view(2, 3)
    procs.write_tensors(tmp_path/"w.safetensors", {"w": w}, {"why": "test"})
    assert torch.equal(load_file(tmp_path/"w.safetensors")["w"], w)


def test_written_files_have_the_usual_permissions(tmp_path):
    before = os.umask(0o022)
    try: procs.write_text(tmp_path/"a", "x"); (tmp_path/"b").write_text("x")
    finally: os.umask(before)
    assert (tmp_path/"a").stat().st_mode == (tmp_path/"b").stat().st_mode


def test_a_line_is_never_put_behind_a_torn_one(tmp_path):
    path = tmp_path/"rows.jsonl"
    procs.append_line(path, '{"id": 1}')
    with open(path, "a") as file: file.write('{"id": ')
    procs.append_line(path, '{"id": 2}')
    assert path.read_text().splitlines() == ['{"id": 1}', '{"id": ', '{"id": 2}']
    with pytest.raises(ValueError, match="line break"): procs.append_line(path, "two\nlines")


def test_two_processes_append_to_one_file_and_no_line_is_mixed(tmp_path):
    code = ("import sys\nfrom povid_nb.procs import append_line\nfor i in range(500): append_line(sys.argv[1], "
            "sys.argv[2] * 300)")
    writers = [start(code, tmp_path/"rows", name) for name in "ab"]
    for w in writers: assert w.wait() == 0, w.stderr.read()
    lines = (tmp_path/"rows").read_text().splitlines()
    assert sorted(lines) == ["a" * 300] * 500 + ["b" * 300] * 500


def test_a_locked_folder_is_refused_and_free_again_after_a_kill(tmp_path):
    code = ("import sys, time\nfrom povid_nb.procs import locked\n"
            "with locked(sys.argv[1], 'training'): print('in', flush=True); time.sleep(60)")
    holder = start(code, tmp_path)
    assert holder.stdout.readline() == "in\n"
    with pytest.raises(RuntimeError, match="another process is at training"):
        with procs.locked(tmp_path, "training"): pass
    holder.kill(); holder.wait()
    with procs.locked(tmp_path): pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_the_first_signal_asks_and_the_second_interrupts(number):
    code = ("import time\nfrom povid_nb.procs import stopping\n"
            "with stopping() as stop:\n    print('ready', flush=True)\n    while not stop.requested: time.sleep(.01)\n"
            "    print('saved', flush=True)\n    time.sleep(60)")
    worker = start(code)
    assert worker.stdout.readline() == "ready\n"
    worker.send_signal(number)
    assert "stopping" in worker.stdout.readline()
    assert worker.stdout.readline() == "saved\n"
    worker.send_signal(number)
    assert worker.wait(20) != 0 and "KeyboardInterrupt" in worker.stderr.read()


def test_handlers_are_put_back_and_threads_may_use_it_too():
    before = signal.getsignal(signal.SIGTERM)
    with procs.stopping(): assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    found = []
    def work():
        with procs.stopping() as stop: found.append(stop.requested)
    thread = threading.Thread(target=work); thread.start(); thread.join()
    assert found == [False]


def test_rank_and_size_come_from_the_launcher(monkeypatch):
    monkeypatch.setenv("RANK", "2"); monkeypatch.setenv("WORLD_SIZE", "4")
    assert (procs.rank(), procs.world_size(), procs.is_main()) == (2, 4, False)
    with pytest.raises(RuntimeError, match="this run has 4 processes, expected 2"): procs.world_size(expected=2)


def test_a_patched_method_is_no_function_of_the_module():
    class Thing: pass
    def describe(self: Thing): return 1
    assert procs.patch(describe) is None and Thing().describe() == 1

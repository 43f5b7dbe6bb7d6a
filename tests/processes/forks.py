"""`povid` in processes that begin with everything imported: forked from one that waits, so that a kill costs a second
and not ten.

    with forks() as start:
        it = start("train", "--data", ..., processes=2, most=4_000)      # most: no file may grow beyond so many bytes
        it.signal(signal.SIGKILL)
        text = it.said(0)
"""
import contextlib, json, os, resource, signal, socket, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINE = "stopped; the same command goes on from here"


class Started:
    "One command, in one process or in several that share the work"
    def __init__(self, ask, pids, log): self.ask, self.pids, self.log, self.codes = ask, pids, log, None

    def running(self): return self.codes is None and not all(self.ask(done=self.pids))

    def signal(self, number, *which):
        "To all processes, or to some of them"
        for at in which or range(len(self.pids)):
            with contextlib.suppress(ProcessLookupError): os.kill(self.pids[at], number)

    def wait(self):
        if self.codes is None: self.codes = self.ask(wait=self.pids)
        return self.codes

    def said(self, *codes):
        "All that was said; each process ended with one of `codes`, without a traceback"
        ended, text = self.wait(), self.log.read_text(errors="replace")
        assert set(ended) <= set(codes), f"{ended}: {text[-3000:]}"
        assert "Traceback" not in text, text[-3000:]
        return text


@contextlib.contextmanager
def forks(folder, first="", **more):
    "What starts commands; `first` is code that runs before all of them, `more` are variables of their environment"
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | more
    nursery = subprocess.Popen([sys.executable, __file__, first], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               text=True, env=env)

    def ask(**order):
        print(json.dumps(order), file=nursery.stdin, flush=True)
        return json.loads(nursery.stdout.readline())

    started = []

    def start(*words, processes=1, most=0):
        (log := folder/f"{len(started)}.log").touch()
        started.append(Started(ask,
                               ask(words=[str(word) for word in words], processes=processes, most=most, log=str(log)),
                               log))
        return started[-1]
    try: yield start
    finally:
        for one in started: one.signal(signal.SIGKILL) if one.codes is None else None
        nursery.stdin.close()
        nursery.wait(60)


# ---- The process that waits -----------------------------------------------------------------------------------------

def child(words, most, log, env):
    os.environ.update(env)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2): os.dup2(out, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    from povid_nb.cli import app
    sys.argv = ["povid", *words]
    code = 70
    try: app(words, prog_name="povid")
    except SystemExit as end: code = end.code or 0
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def serve():
    import matplotlib.pyplot, povid_nb.cli, povid_nb.inject, povid_nb.run, povid_nb.stages, torch   # noqa: F401
    torch.set_num_threads(1)
    exec(sys.argv[1], {})
    ended = {}

    def done(pid, flags=os.WNOHANG):
        if pid not in ended:
            found, status = os.waitpid(pid, flags)
            if found: ended[pid] = os.waitstatus_to_exitcode(status)
        return pid in ended

    for line in sys.stdin:
        order = json.loads(line)
        if "done" in order: answer = [done(pid) for pid in order["done"]]
        elif "wait" in order: answer = [done(pid, 0) and ended[pid] for pid in order["wait"]]
        else:
            many, port, answer = order["processes"], free_port(), []
            for rank in range(many):
                env = ({} if many == 1
                       else {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(many),
                             "LOCAL_WORLD_SIZE": str(many), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
                if not (pid := os.fork()): child(order["words"], order["most"], order["log"], env)
                answer.append(pid)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__": serve()

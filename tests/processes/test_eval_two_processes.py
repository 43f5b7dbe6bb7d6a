"""Evaluation over two real processes: the same files and scores as one, to the last digit, also after a kill."""
import json, os, signal, subprocess, sys, textwrap, time
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[2]

WORK = textwrap.dedent("""
    import json, os, sys, time
    from pathlib import Path
    import torch
    import torch.distributed as dist
    torch.set_num_threads(1)
    world_size = int(os.environ.get('WORLD_SIZE', 1))
    if world_size > 1:
        dist.init_process_group('gloo')
        assert dist.get_world_size() == world_size
    from povid_nb import chair, coco, pope, world, yesno
    from povid_nb.vlm import VLM
    out, rank = Path(sys.argv[1]), int(os.environ.get('RANK', 0))
    out.mkdir(parents=True, exist_ok=True)
    (out/f'rank{rank}.txt').write_text(f'{world_size} {os.getpid()}')
    scenes = world.scenes('counter', 'test', 14)
    objects = {f'{i:02}': s.objects for i, s in enumerate(scenes)}
    images = {i: s.image() for i, s in zip(objects, scenes)}
    vlm = VLM.load()
    if os.environ.get('SLOWLY'):
        describe = vlm.describe
        vlm.describe = lambda *a, **k: time.sleep(.4) or describe(*a, **k)
    pairs = chair.describe_all(vlm, images, out/'captions.jsonl', batch_size=3, max_new_tokens=24)
    questions = pope.build_questions(objects, per_image=2, rule="picture")
    said = yesno.answer_all(vlm, images, questions, out/'yes.jsonl', batch_size=20)
    c = chair.score([t for _, t in pairs], list(objects.values()), coco.Vocabulary(world.SYNONYMS)).scores()
    p = pope.score_answers(questions, said).scores()
    (out/f'scores{rank}.json').write_text(json.dumps([c.to_dict(), p.to_dict()]))
    os._exit(0)   # a process of torchrun may abort in its clean-up, after all work is done
""")


@pytest.fixture(scope='module')
def work(tmp_path_factory):
    path = tmp_path_factory.mktemp('work')/'work.py'
    path.write_text(WORK)
    return path


def start(work, out, processes=1, **env):
    launcher = ([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(processes)]
                if processes > 1 else [sys.executable])
    env = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1'} | env
    return subprocess.Popen([*launcher, str(work), str(out)], env=env, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True)


def finish(process):
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope='module')
def alone(work, tmp_path_factory):
    out = tmp_path_factory.mktemp('alone')
    finish(start(work, out))
    return out


def same(alone, out):
    for name in ('captions.jsonl', 'yes.jsonl'):
        assert (out/name).read_bytes() == (alone/name).read_bytes(), name
        assert not (out/f'{name}.parts').exists()


def test_two_processes_give_the_same_scores_as_one_to_the_last_digit(work, alone, tmp_path):
    finish(start(work, tmp_path, 2))
    assert [(tmp_path/f'rank{r}.txt').read_text().split()[0] for r in (0, 1)] == ['2', '2']     # they really were two
    same(alone, tmp_path)
    scores = [(folder/f'scores{r}.json').read_text() for folder, r in ((alone, 0), (tmp_path, 0), (tmp_path, 1))]
    assert scores[0] == scores[1] == scores[2] and json.loads(scores[0])[0]['n'] == 14


def test_two_processes_killed_in_the_middle_and_finished_by_one(work, alone, tmp_path):
    process = start(work, tmp_path, 2, SLOWLY='1')
    parts = tmp_path/'captions.jsonl.parts'
    while not (parts.exists() and len(list(parts.iterdir())) == 2) and process.poll() is None: time.sleep(.01)
    workers = [int((tmp_path/f'rank{r}.txt').read_text().split()[1]) for r in (0, 1)]
    for pid in (process.pid, *workers): os.kill(pid, signal.SIGKILL)
    for rank in parts.iterdir(): assert rank.read_text().count('\n') >= 3
    process.wait()
    assert not (tmp_path/'captions.jsonl').exists(), 'it was to die in the middle'
    finish(start(work, tmp_path))
    same(alone, tmp_path)

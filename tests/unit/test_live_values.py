"""The live page computes what Python computes: random numbers, scenes, pictures, noise, tokens, the loss; and the
model itself"""
import base64, json, random, shutil, subprocess
from pathlib import Path
import numpy as np, pytest, torch
from povid_nb import chair, measure, noise, world
from povid_nb.dpo import Logps
from povid_nb.loss import povid_loss
from povid_nb.shift import noisy_inputs
from povid_nb.vlm import VLM
from tests.unit.test_static import NODE, newer_than
from tools import live

ROOT = Path(__file__).parents[2]
SCENES = [(split, "test", i) for split in ("typical", "counter", "random") for i in range(8)]
TEXTS = ["<s>USER: <image> Describe this image. ASSISTANT:", "There is a red fork, zébra (new)!", "don't  know 12",
         "A"]
NOISY = [dict(step=step, seed=seed, id="counter/test/0", space=space, overflow=overflow)
         for space, overflow in (("pixels", "clamp"), ("pixels", "wrap"), ("pixels", "none"), ("processed", "none"))
         for step, seed in ((0, 0), (500, 3))]
CAPTIONS = [(0, "A red cup and a knife, and a knife."), (8, "We see nothing."), (9, "A bus, a sign and a sofa.")]


@pytest.fixture(scope="module")
def vlm(): return VLM.load()


def logps(sign):
    return {"chosen": -11.06 - sign, "rejected": -47.79 + 38 * (sign > 0), "noise": -12.94 - 8 * sign}


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    "What the page's modules answer, in Node"
    if not newer_than(20): pytest.skip("needs Node 20 or newer")
    folder = tmp_path_factory.mktemp("live")
    (folder/"world.json").write_text(json.dumps(live.tables()))
    shutil.copy(ROOT/"povid_nb"/"tiny"/"tokenizer.json", folder)
    (folder/"picture.bin").write_bytes(world.scenes("counter", "test", 1)[0].image().tobytes())
    asked = dict(random="a seed/picture", normal=[(64, "", 0, 0), (37, "counter/test/12", 999, 5)], scenes=SCENES,
                 noisy=NOISY, texts=TEXTS,
                 losses=[dict(policy=logps(0), reference=logps(1)), dict(policy=logps(1), reference=logps(0))],
                 captions=CAPTIONS)
    (folder/"asked.json").write_text(json.dumps(asked))
    done = subprocess.run([NODE, ROOT/"tests"/"js"/"live_side.mjs", folder], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return json.loads(done.stdout)


def values(text, kind): return np.frombuffer(base64.b64decode(text), kind)


def test_random_numbers_are_pythons(there):
    rng = random.Random("a seed/picture")
    assert there["random"] == [rng.random(), rng.randrange(10), rng.randint(-4, 4), rng.uniform(2, 3),
                               rng.choice([1, 2, 3]), rng.sample(range(30), 4),
                               rng.sample(range(9), 6), list(rng.randbytes(7)), rng.random()]


def test_noise_is_the_courses(there):
    for numbers, (n, *key) in zip(there["normal"], [(64, "", 0, 0), (37, "counter/test/12", 999, 5)]):
        assert np.allclose(numbers, noise.draw((n,), *key), atol=2e-6)


def test_scenes_and_captions_are_pythons(there):
    for found, (split, part, i) in zip(there["scenes"], SCENES):
        scene = world.scenes(split, part, 1, i)[0]
        assert (found["context"], found["seed"], found["caption"], found["missing"]) == (scene.context, scene.seed,
            scene.caption(), scene.missing_partners)
        assert found["things"] == [[t.kind, t.colour, t.place] for t in scene.things]


def test_pictures_are_pythons_up_to_some_edges(there):
    "The same ground, places, colours and grain; of the values on edges few differ"
    for found, (split, part, i) in zip(there["scenes"], SCENES):
        apart = np.abs(values(found["pixels"], np.uint8).astype(int)
                       - np.asarray(world.scenes(split, part, 1, i)[0].image()).ravel())
        assert (apart > 0).mean() < .004 and apart.mean() < .15, (found["seed"], (apart > 0).mean(), apart.mean())


def test_what_the_tower_reads_is_the_processors(there, vlm):
    expected = vlm.inputs(world.scenes("counter", "test", 1)[0], world.DESCRIBE)["pixel_values"].numpy().ravel()
    assert np.allclose(values(there["process"], np.float32), expected, atol=1e-6)


def test_noise_on_a_picture_is_the_courses(there, vlm):
    scene = world.scenes("counter", "test", 1)[0]
    for (found, picture), how in zip(there["noisy"], NOISY):
        expected = noisy_inputs(vlm, scene, world.DESCRIBE, [(how["step"], how["seed"])], how["id"], how["space"],
                                how["overflow"])["pixel_values"].numpy().ravel()
        apart = np.abs(values(found, np.float32) - expected)
        # a value in the middle of two may round either way
        assert (apart > 1e-4).mean() < 1e-3 and apart.max() < .2, how
        if how["space"] == "pixels" and how["overflow"] != "none":
            noisy = np.asarray(noise.add_noise(scene.image(), how["step"], how["id"], how["seed"],
                                               how["overflow"])).ravel()
            assert (values(picture, np.uint8) != noisy).mean() < 1e-3


def test_tokens_are_the_tokenizers(there, vlm):
    for text, ids, back in zip(TEXTS, there["tokens"], there["texts"]):
        assert ids == vlm.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert back.strip() == vlm.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_the_loss_is_povids(there):
    as_logps = lambda pair: Logps(*(torch.tensor([pair[name]]) for name in ("chosen", "rejected", "noise")))
    for found, (a, b) in zip(there["loss"], [(0, 1), (1, 0)]):
        assert found == pytest.approx(float(povid_loss(as_logps(logps(a)), as_logps(logps(b)), "paper").losses),
                                      abs=1e-5)


def test_chair_is_counted_alike(there):
    scenes = [world.scenes(*SCENES[i][:2], 1, SCENES[i][2])[0] for i, _ in CAPTIONS]
    score = chair.score([text for _, text in CAPTIONS], [scene.objects for scene in scenes], measure.VOCABULARY).values
    sums = there["chair"]
    assert (sums["hallucinate"] / sums["captions"], sums["wrong"] / sums["mentions"],
            sums["named"] / sums["there"]) == pytest.approx(
        (score["chair_s"], score["chair_i"], score["recall"]))


def test_the_graphs_are_the_model(tmp_path, vlm):
    "One file, every adapter at every strength; in one pass, and token by token with the cache"
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name, reason=f'needs {name}: pip install "povid_nb[live]"')
    from peft.helpers import rescale_adapter_scale
    from tools.onnx_model import GAINS, export
    export(tmp_path)
    runtime, scene = live.Runtime(tmp_path), world.scenes("counter", "test", 1)[0]
    batch = vlm.inputs(scene, world.DESCRIBE, scene.caption())
    batch.pop("answer_mask")
    ids, features = batch["input_ids"][0].numpy(), runtime.features(batch["pixel_values"].numpy())
    for adapter, scale in live.SETTINGS:
        tuned = vlm if adapter == "base" else VLM.load(adapter=adapter)
        with tuned.reading(), rescale_adapter_scale(tuned.model, scale) if adapter != "base" else torch.no_grad():
            expected = tuned.model(**batch).logits[0].numpy()
        gains = np.array(GAINS[adapter]) * scale
        whole, first = runtime.read(ids, features, gains)[0], runtime.read(ids[:50], features, gains)
        assert np.abs(whole - expected).max() < 1e-3
        assert np.abs(runtime.read(ids[50:], features, gains, first[1])[0] - expected[50:]).max() < 1e-3
        last, longer = runtime.read(ids[50:], features, gains, first[1], start=3)     # fewer logits, the same cache
        assert np.abs(last - expected[53:]).max() < 1e-3 and {part.shape[2] for part in longer} == {len(ids)}


def test_the_saved_comparison_holds_what_is_promised():
    result = json.loads(live.RESULT.read_text())
    assert result["compressed"] < live.LIMIT
    assert {(row["adapter"], row["scale"]) for row in result["rows"]} == set(live.SETTINGS)
    for row in result["rows"]:
        assert row["logits"] < 1e-3 and row["n"] >= 100 and row["same"] == row["n"]
        assert result["page"][f"{row['adapter']} {row['scale']:g}"][0] >= .95 * row["n"]

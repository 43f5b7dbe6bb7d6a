"The explorer's values, as a page would set and read them"
import base64, io, json, struct, zlib
import numpy as np, pytest
from PIL import Image
from povid_nb import shift, world
from povid_nb.explorer import Explorer
from povid_nb.vlm import VLM
from povid_nb.world import Scene

SCENE = Scene.of(("grey", "fork", "left"), ("white", "plate", "middle"), ("red", "ball", "top"))

@pytest.fixture(scope="module")
def vlm():
    return VLM.load("tiny")

@pytest.fixture
def explorer(vlm): return Explorer(vlm, [SCENE, world.scenes("counter", "test", 1)[0]], steps=(0, 500, 999))

def test_explorer_answers_the_slider(explorer, vlm):
    explorer.set_state({"step": 437})
    sweep = explorer.sweeps[explorer._key()]
    alone = shift.sweep(vlm, SCENE, prefix=explorer._prefix(), steps=[437], seeds=[0], words=sweep["words"])
    assert explorer.exact["step"] == 437 and np.allclose(explorer.exact["probs"], alone.probs[0, 0], atol=1e-3)
    before = explorer.exact
    explorer.set_state({"step": 500})
    assert explorer.exact is before                   # 500 is in the sweep: nothing to compute

def test_explorer_sweep_is_the_sweep(explorer, vlm):
    sweep = explorer.sweeps[explorer._key()]
    alone = shift.sweep(vlm, SCENE, prefix=explorer._prefix(), steps=(0, 500, 999), seeds=[0], words=sweep["words"])
    assert np.allclose(sweep["probs"], alone.probs[:, 0], atol=1e-3)

def test_explorer_roles(explorer):
    explorer.choose(answer="A grey fork is on the left. Next to it is a white plate.", position=13)
    explorer.images[0]["answer"] = explorer.answer
    assert explorer._prefix().endswith("a white")
    assert explorer._roles(["plate", "knife", "fork", "dog", "cat", "six"]) == ["true", "usual", "there", "other",
        "other", "rest"]

def test_explorer_choices(explorer):
    keys = {explorer._key()}
    for values in (dict(space="processed"), dict(space="pixels", overflow="wrap"), dict(overflow="none"), dict(seed=2),
                   dict(image=1), dict(position=1)):
        explorer.choose(**values); keys.add(explorer._key())
        assert explorer._key() in explorer.sweeps and explorer.message == ""
    assert len(keys) == 7 and explorer.answer == explorer.images[1]["answer"]

def test_explorer_upload(explorer):
    data = io.BytesIO()
    SCENE.image().save(data, "PNG")
    url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    explorer.set_state({"upload": {"name": "mine.png", "data": url}})
    assert explorer.images[-1]["name"] == "mine.png" and explorer.image == 2 and explorer._key() in explorer.sweeps
    assert set(explorer.sweeps[explorer._key()]["roles"]) <= {"true", "rest"}      # nobody knows what is in it
    explorer.set_state({"upload": {"name": "bad.png", "data": "data:,xxxx"}})
    assert "bad.png is not an image" in explorer.message and len(explorer.images) == 3

def test_page_holds_what_was_computed(explorer):
    html = explorer.fill(settings=[("pixels", "clamp")], positions=[4]).html()
    state = json.loads(html.split("render({model: still(")[1].split("), el: document")[0].replace("<\\/", "</"))
    assert state["live"] is False and len(state["sweeps"]) >= 2 and "http" not in html.replace("http://www.w3.org", "")
    assert explorer.image == 0                        # fill puts back what was chosen

def png(width, height):
    "A tiny file that claims to be a large picture"
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")

@pytest.mark.parametrize("width, height", [(100_000, 1), (20_000, 20_000), (60_000, 60_000)])
def test_an_upload_that_is_far_too_large(explorer, width, height):
    "Refused by its header, before a pixel of it is decoded"
    data = base64.b64encode(png(width, height)).decode()
    explorer.set_state({"upload": {"name": "big.png", "data": f"data:image/png;base64,{data}"}})
    assert explorer.message.startswith("big.png") and len(explorer.images) == 2

def test_an_answer_longer_than_the_model_can_read(explorer):
    explorer.choose(answer="fork " * 3000, position=3000)
    assert "has 1,024 positions" in explorer.message

@pytest.mark.parametrize("name", ["<!--<script>", "</script><script>alert(1)</script>", "]]>", "\u2028"])
def test_a_name_cannot_leave_its_place_in_the_page(explorer, name):
    explorer.images = [explorer.images[0] | {"name": name}, *explorer.images[1:]]
    page = explorer.html()
    assert page.count("<script") == page.count("</script") == 1 and "<!--" not in page
    state = json.loads(page.split("render({model: still(")[1].split("), el: document")[0])
    assert state["images"][0]["name"] == name

def test_no_images(vlm):
    with pytest.raises(ValueError, match="no image was given"): Explorer(vlm, [])

"""The corpus: inputs that are damaged, hostile, or merely odd, and the command that meets each of them.

A case is (area, name, words of the command, how it ends). `{}` in the words is a folder of the case's own, in which a
function of the same area has made the files. How it ends: "ok" (the input is good, though odd), "refused" (one line,
exit 1), "usage" (exit 2, by the command line's own parser) or "aside" (exit 0, and a warning names what was left out).
"""
import io, json, os, pickle, re, struct, zlib
from pathlib import Path
import numpy as np
from PIL import Image, PngImagePlugin

CANARY = "a model's code has run"


class Evil:
    "A pickle that writes a file when it is read"
    def __init__(self, file): self.file = str(file)
    def __reduce__(self): return (Path.write_text, (Path(self.file), CANARY))


def photo(size=(48, 32)):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def chunk(name, data): return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
def png(width, height, depth=8, colour=2, *chunks):
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0))
            + b"".join(chunks))


# ---- Pictures -------------------------------------------------------------------------------------------------------

def saved(form, image=None, **how):
    data = io.BytesIO()
    (image or photo()).save(data, form, **how)
    return data.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved("JPEG", exif=exif)


def with_text():
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 50_000_000, zip=True)
    return saved("PNG", pnginfo=info)


PICTURES = {      # name: (content, how it ends)
    "one pixel.png": (saved("PNG", photo((1, 1))), "ok"),
    "grey in 16 bits.png": (saved("PNG", Image.fromarray(np.arange(0, 65536, 64, dtype="<u2").reshape(32, 32))), "ok"),
    "CMYK.jpg": (saved("JPEG", photo().convert("CMYK")), "ok"),
    "palette.png": (saved("PNG", photo().quantize(8), transparency=0), "ok"),
    "black and white.png": (saved("PNG", photo().convert("1")), "ok"),
    "alpha.png": (saved("PNG", photo().convert("LA")), "ok"),
    "transparent.webp": (saved("WEBP", photo().convert("RGBA")), "ok"),
    "animated.gif": (saved("GIF", save_all=True, append_images=[photo((48, 32))]), "ok"),
    "animated.webp": (saved("WEBP", save_all=True, append_images=[photo()]), "ok"),
    "turned by EXIF.jpg": (turned(), "ok"),
    "broken EXIF.jpg": (saved("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), "ok"),
    "many pages.tif": (saved("TIFF", save_all=True, append_images=[photo()] * 3), "ok"),
    "a PNG called.jpg": (saved("PNG"), "ok"), "<script>alert(1)<-script>.png": (saved("PNG"), "ok"),
    "größe 🐈.png": (saved("PNG"), "ok"),
    "empty.png": (b"", "refused"), "text.jpg": (b"this is not a picture", "refused"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "refused"),
    "drawing called.png": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "refused"),
    "page.pdf": (b"%PDF-1.4\n1 0 obj <<>> endobj", "refused"), "program.eps": (saved("EPS"), "refused"),
    "icon.ico": (saved("ICO"), "refused"), "film.mp4": (b"\0\0\0\x18ftypmp42" + bytes(64), "refused"),
    "half.png": (saved("PNG")[:900], "refused"), "half.jpg": (saved("JPEG")[:600], "refused"),
    "half.webp": (saved("WEBP")[:300], "refused"), "half.gif": (saved("GIF")[:200], "refused"),
    "header only.jpg": (saved("JPEG")[:20], "refused"),
    "wrong sum.png": (saved("PNG")[:60] + b"\xff" * 9 + saved("PNG")[69:], "refused"),
    "100000 x 1.png": (saved("PNG", Image.new("1", (100_000, 1))), "refused"),
    "13300 x 13300.png": (saved("PNG", Image.new("1", (13_300, 13_300))), "refused"),
    "30000 x 30000, no pixels.png": (png(30_000, 30_000), "refused"),
    "2147483647 wide.png": (png(2**31 - 1, 2**31 - 1), "refused"), "0 x 0.png": (png(0, 0), "refused"),
    "65535 x 65535.jpg": (saved("JPEG")[:].replace(struct.pack(">HH", 32, 48), struct.pack(">HH", 65535, 65535), 1),
                          "refused"), "text of 50 MB.png": (with_text(), "refused"),
    "not a number.tif": (saved("TIFF", Image.fromarray(np.full((8, 8), np.nan, "f4"))), "refused"),
    "below zero.tif": (saved("TIFF", Image.fromarray(np.full((8, 8), -3, "f4"))), "refused")}
PLACES = {"no such file.png": lambda p: None, "a folder.png": lambda p: p.mkdir(),
          "a link to itself.png": lambda p: p.symlink_to(p), "a pipe.png": lambda p: os.mkfifo(p),
          "a device.png": lambda p: p.symlink_to("/dev/zero"), "a broken link.png": lambda p: p.symlink_to("nowhere")}
ADDRESSES = ["http://127.0.0.1:9/a.png", "file:///etc/passwd", "data:image/png;base64,AAAA", "\x1b[31mred.png"]


def pictures(folder):
    folder.mkdir()
    for name, (data, _) in PICTURES.items(): (folder/name).write_bytes(data)
    for name, make in PLACES.items(): make(folder/name)
    cases = [(name, ends) for name, (_, ends) in PICTURES.items()] + [(name, "refused") for name in PLACES]
    for name, ends in cases: yield "picture", name, ["shift", str(folder/name), "--steps", "0", "--out", "{}"], ends
    for name in ADDRESSES:
        yield "picture", name.replace("\x1b", "ESC"), ["shift", name, "--steps", "0", "--out", "{}"], "refused"
    for name in ("half.jpg", "100000 x 1.png", "a pipe.png"):
        yield "picture", f"{name}, attend", ["attend", str(folder/name), "--out", "{}"], "refused"
    for name in ("one pixel.png", "CMYK.jpg"):
        yield "picture", f"{name}, attend", ["attend", str(folder/name), "--answer", "A red cup.", "--out", "{}"], "ok"


# ---- Pairs ----------------------------------------------------------------------------------------------------------

def row(prompt="Describe it.", chosen="A red cup.", rejected="A red fork.", image="a.png", **fields):
    turns = lambda answer: [{"from": "human", "value": f"<image>\n{prompt}"}, {"from": "gpt", "value": answer}]
    return ({"id": "x", "image": image, "conversations": turns(chosen), "rejected_conversations": turns(rejected)}
            | fields)


def without(name): return {k: v for k, v in row().items() if k != name}


ROWS = {    # one such row among two good ones: it is set aside, or it is fine
    "null": None, "a list": [], "a number": 7, "text": "pair", "an empty object": {}, "no picture": without("image"),
    "the picture is a number": row(image=3), "the picture is a list": row(image=["a.png"]),
    "the picture is a folder": row(image="."), "the picture is an address": row(image="http://127.0.0.1:9/a.png"),
    "no such picture": row(image="none.png"), "the picture is cut short": row(image="half.png"),
    "the picture is huge": row(image="bomb.png"), "the picture is a link loop": row(image="loop.png"),
    "the picture is a pipe": row(image="pipe.png"), "no conversations": without("conversations"),
    "no rejected answer": without("rejected_conversations") | {"rejected": None},
    "conversations is text": row(conversations="hello"),
    "an odd number of turns": row(conversations=row()["conversations"][:1]),
    "other speakers": row(conversations=[{"from": "gpt", "value": "<image>\na"}, {"from": "human", "value": "b"}]),
    "a turn is text": row(conversations=["a", "b"]),
    "a value is a number": row(chosen=7), "a value is null": row(rejected=None),
    "a value is a list": row(rejected=["a"]), "an empty answer": row(chosen=""),
    "an answer of blanks": row(rejected=" \n\t "),
    "identical answers": row(rejected="A red cup."),
    "other questions": row(rejected_conversations=[{"from": "human", "value": "<image>\nWhy?"},
                                                   {"from": "gpt", "value": "a"}]),
    "no <image>": row(conversations=[{"from": "human", "value": "Describe it."}, {"from": "gpt", "value": "a"}]),
    "<image> in an answer": row(rejected="A <image> fork."), "<image> twice": row(prompt="and <image>"),
    "half a surrogate": row(chosen="a \ud83d cup"), "edits is text": row(edits="none"),
    "an edit with other fields": row(edits=[{"from": "a", "to": "b"}]),
    "an edit of numbers": row(edits=[{"old": 1, "new": 2}]),
    "nested 5,000 deep": "[" * 5000 + "]" * 5000}
FINE = {"control characters": row(rejected="A red\x07\x1b[31m fork.\r\x7f"), "NUL": row(rejected="A red\x00 fork."),
        "letters of all kinds": row(rejected="Ein rotes 🐈\u200d\u2b1b\u202e\u0301 叉子."),
        "a script": row(rejected="<script>alert(1)</script>"),
        "a formula": row(rejected="$\\frac{1}{0}$ costs $5."), "the id is a number": row(id=7),
        "the id is a list": row(id=[1]), "no id": without("id"), "the kind is a list": row(kind=["a"]),
        "other fields": row(more={"deep": [1, {"a": None}]}),
        "the same pair twice": row(id="same")}
FILES = {   # a whole file
    "an empty file": b"", "blanks": b"\n \n", "not JSON": b"hello", "one number": b"7", "null": b"null",
    "text": b'"pairs"', "an empty list": b"[]", "a list of lists": b"[[1], [2]]",
    "a cut list": b'[{"id": "x", "image": ',
    "a cut line": json.dumps(row()).encode()[:-20], "bytes": bytes(range(256)) * 4,
    "UTF-16": json.dumps(row()).encode("utf-16"), "NUL bytes": b"\0" * 1000, "a table": b"id,image,chosen\n1,a.png,b",
    "YAML": b"- id: x\n  image: a.png\n",
    "not a number": b'[{"id": NaN, "image": Infinity}]', "100,000 brackets": b"[" * 100_000,
    "a page": b"<html><script>alert(1)</script></html>", "a pickle": pickle.dumps([1, 2])}


def pairs(folder):
    folder.mkdir()
    data = folder/"pairs"
    data.mkdir()
    (data/"a.png").write_bytes(saved("PNG"))
    (data/"half.png").write_bytes(saved("PNG")[:900])
    (data/"bomb.png").write_bytes(PICTURES["13300 x 13300.png"][0])
    (data/"loop.png").symlink_to(data/"loop.png")
    os.mkfifo(data/"pipe.png")
    (folder/"secret.png").write_bytes(saved("PNG"))
    good = [json.dumps(row(id=f"good {i}", rejected=f"A red plate {i}.")) for i in range(2)]
    def file(name, rows):
        path = data/f"{len(list(data.iterdir()))}.jsonl"
        path.write_text("\n".join(rows) + "\n")
        return str(path)
    train = lambda path, *more: ["train", "--data", path, "--out", "{}", "--stage", "1", "--max-steps", "1",
                                 "--batch-size", "1", *more]
    late = {"the picture is cut short", "the picture is huge"}       # a report shows why in the picture's place
    for name, bad in ROWS.items():
        path = file(name, [good[0], bad if name.startswith("nested") else json.dumps(bad), good[1]])
        yield ("pairs", name, (train(path) if name in late else ["pairs", "report", path, "--out", "{}/report.html"]),
               "aside")
    for name, fine in FINE.items():
        path = file(name, [*good, json.dumps(fine), *([json.dumps(fine)] if "twice" in name else [])])
        yield "pairs", name, ["pairs", "report", path, "--out", "{}/report.html"], "ok"
        if name in ("control characters", "NUL", "letters of all kinds"):
            yield "pairs", f"{name}, train", train(path), "ok"
    path = file("word", [*good, json.dumps(row(id="long", rejected="fork" * 250_000))])
    yield "pairs", "a word of a megabyte", ["pairs", "report", path, "--out", "{}/report.html"], "ok"
    path = file("megabyte", [*good, json.dumps(row(id="long", rejected="fork " * 200_000))])
    yield "pairs", "an answer of a megabyte, train", train(path), "aside"
    for token in ("</s>", "<pad>", "<s>"):
        yield ("pairs", f"{token} in an answer, train",
               train(file(token, [*good, json.dumps(row(rejected=f"A fork.{token} A cup."))])), "aside")
    yield ("pairs", "<image> in a question, train",
           train(file("q", [*good, json.dumps(row(prompt="What <image> is it?"))])), "aside")
    for name, place in {"a path out of the folder": "../secret.png",
                        "an absolute path": str(folder/"secret.png")}.items():
        yield ("pairs", name,
               ["pairs", "report", file(name, [*good, json.dumps(row(image=place))]), "--images", str(data), "--out",
                "{}/report.html"], "aside")
    for name, content in FILES.items():
        path = folder/f"{len(list(folder.iterdir()))}.json"
        path.write_bytes(content)
        yield "pairs", f"a file of: {name}", ["pairs", "report", str(path)], "refused"
        if name in ("an empty file", "one number", "a cut list", "a pickle"):
            yield "pairs", f"a file of: {name}, train", train(str(path)), "refused"
    (folder/"nothing").mkdir()
    for name, content in {"broken.parquet": b"PAR1" + bytes(40) + b"PAR1",
                          "pickle.pkl": pickle.dumps(Evil(folder/"ran")),
                          "script.py": f"open({str(folder/'ran')!r}, 'w').write({CANARY!r})".encode()}.items():
        (folder/f"{name}-folder").mkdir()
        (folder/f"{name}-folder"/name).write_bytes(content)
        yield "pairs", f"a folder with {name}", train(str(folder/f"{name}-folder")), "refused"
    yield "pairs", "an empty folder", train(str(folder/"nothing")), "refused"
    yield "pairs", "no such file", train(str(folder/"none.jsonl")), "refused"
    yield "pairs", "no such folder, report", ["pairs", "report", str(folder/"none")], "refused"
    yield "pairs", "a file of: text, run", ["run", "--data", str(data/"a.png"), "--out", "{}", "--n", "1"], "refused"
    yield ("pairs", "a file of: LLaVA's data without pictures",
           ["pairs", "make", "--data", file("llava", [json.dumps({"id": "1", "conversations": []})]), "--n", "3",
            "--out", "{}"], "refused")


# ---- Adapters -------------------------------------------------------------------------------------------------------

def adapters(folder):
    import shutil
    from safetensors.numpy import load_file, save_file
    from povid_nb import load
    good, picture = load._built_in()/"adapters"/"stage1", folder/"a.png"
    folder.mkdir()
    picture.write_bytes(saved("PNG"))
    tensors, config = load_file(good/"adapter_model.safetensors"), json.loads((good/"adapter_config.json").read_text())
    first = next(iter(tensors))
    def adapter(name, change=lambda path: None, values=None, **settings):
        path = folder/name.replace("/", "-")
        path.mkdir()
        (path/"adapter_config.json").write_text(json.dumps(config | settings))
        save_file(tensors if values is None else values, path/"adapter_model.safetensors")
        change(path)
        return path
    def evil(path):
        (path/"adapter_model.safetensors").unlink()
        (path/"adapter_model.bin").write_bytes(pickle.dumps(Evil(folder/"ran")))
    def flipped(path):
        data = bytearray((path/"adapter_model.safetensors").read_bytes())
        data[-1000] ^= 255
        (path/"adapter_model.safetensors").write_bytes(data)
    changed = {first: tensors[first] * np.nan}
    def record(**more):
        fields = {"base": "000000000000", "over": None, "files": {}} | more
        return lambda path: (path/"povid.json").write_text(json.dumps(fields))
    def changed_since(path):
        record(base=None, files={"adapter_model.safetensors": "00"})(path)
        flipped(path)
    cases = {
        "as trained": (adapter("good"), "ok"), "no such folder": (folder/"none", "refused"),
        "an empty folder": (folder/"empty", "refused"), "a file": (picture, "refused"),
        "no configuration": (adapter("no config", lambda p: (p/"adapter_config.json").unlink()), "refused"),
        "no weights": (adapter("no weights", lambda p: (p/"adapter_model.safetensors").unlink()), "refused"),
        "a pickle of weights": (adapter("pickle", evil), "refused"),
        "a pickle called safetensors": (adapter("renamed",
                                                lambda p: (p/"adapter_model.safetensors")
                                                .write_bytes(pickle.dumps(Evil(folder/"ran")))), "refused"),
        "weights cut short": (adapter("cut", lambda p: os.truncate(p/"adapter_model.safetensors", 5000)), "refused"),
        "weights of nothing": (adapter("nothing", values={}), "refused"),
        "empty weights file": (adapter("zero", lambda p: os.truncate(p/"adapter_model.safetensors", 0)), "refused"),
        "weights not a number": (adapter("nan", values=tensors | changed), "refused"),
        "weights without end": (adapter("inf", values=tensors | {first: tensors[first] + np.inf}), "refused"),
        "other names": (adapter("names", values={f"x.{k}": v for k, v in tensors.items()}), "refused"),
        "half of the names": (adapter("half", values={k: v for i, (k, v) in enumerate(tensors.items()) if i % 4 < 2}),
                              "refused"),
        "one half of a matrix": (adapter("one", values={k: v for k, v in tensors.items() if "lora_A" in k}),
                                 "refused"),
        "more names than the model": (adapter("more",
                                              values=tensors
                                              | {first.replace("layers.0", "layers.99"): tensors[first]}), "refused"),
        "another rank": (adapter("rank",
                                 values={k: (v[:4] if "lora_A" in k else v[:, :4]) for k, v in tensors.items()}),
                         "refused"),
        "another width": (adapter("wide", values={k: np.concatenate([v, v], 1) for k, v in tensors.items()}),
                          "refused"),
        "rank 1,000,000,000": (adapter("huge", r=10**9), "refused"), "rank 0": (adapter("r0", r=0), "refused"),
        "rank -1": (adapter("r-1", r=-1), "refused"), "rank is text": (adapter("rtext", r="many"), "refused"),
        "alpha is text": (adapter("alpha", lora_alpha="big"), "refused"),
        "alpha is not a number": (adapter("anan", lora_alpha=float("nan")), "refused"),
        "configuration is a list": (adapter("list", lambda p: (p/"adapter_config.json").write_text("[]")), "refused"),
        "configuration is not JSON": (adapter("text", lambda p: (p/"adapter_config.json").write_text("{")), "refused"),
        "of an unknown kind": (adapter("kind", peft_type="MAGIC"), "refused"),
        "of another kind": (adapter("prompt", peft_type="PROMPT_TUNING"), "refused"),
        "no kind": (adapter("no kind", peft_type=None), "refused"),
        "other target": (adapter("target", target_modules=["nowhere"]), "refused"),
        "for a class of another model": (adapter("class",
                                                 auto_mapping={"base_model_class": "Idefics3ForConditionalGeneration",
                                                               "parent_library": "transformers"}), "refused"),
        "code of its own": (adapter("code", lambda p: (p/"evil.py").write_text(f"open({str(folder/'ran')!r}, 'w')"),
                                    auto_mapping={"base_model_class": "Evil", "parent_library": "evil"}), "refused"),
        "made for a model of another name": (adapter("named", base_model_name_or_path="someone/else"), "aside"),
        "trained on other weights": (adapter("weights", record()), "refused"),
        "stage 2 without stage 1": (adapter("stage2", record(over="abc-1/1")), "refused"),
        "a byte has changed since training": (adapter("flip", changed_since), "refused"),
        "a torn record": (adapter("torn", lambda p: (p/"povid.json").write_text('{"base": ')), "refused"),
        "a record of another kind": (adapter("kindrec", lambda p: (p/"povid.json").write_text("[]")), "refused")}
    (folder/"empty").mkdir()
    for name, (path, ends) in cases.items():
        yield "adapter", name, ["shift", str(picture), "--steps", "0", "--adapter", str(path), "--out", "{}"], ends
    for name in ("weights not a number", "trained on other weights", "a pickle of weights", "half of the names"):
        yield ("adapter", f"{name}, eval",
               ["eval", "--limit", "2", "--max-new-tokens", "4", "--adapter", str(cases[name][0]), "--out", "{}"],
               "refused")
        yield ("adapter", f"{name}, stage 2",
               ["train", "--data", "DATA", "--stage", "2", "--max-steps", "1", "--adapter", str(cases[name][0]),
                "--out", "{}"], "refused")
    shutil.rmtree(folder/"zero", ignore_errors=True)
    (folder/"zero").mkdir()


# ---- Model folders --------------------------------------------------------------------------------------------------

def models(folder):
    import shutil
    from safetensors.numpy import load_file, save_file
    from povid_nb import load
    good, ran, picture = load._built_in(), folder/"ran", folder/"a.png"
    folder.mkdir()
    picture.write_bytes(saved("PNG"))
    read = lambda path, name: json.loads((path/name).read_text())
    code = f"open({str(ran)!r}, 'w').write({CANARY!r})\n"
    def model(name, change):
        path = folder/name
        shutil.copytree(good, path, ignore=shutil.ignore_patterns("adapters"))
        change(path)
        return path
    def edit(file, **values): return lambda path: (path/file).write_text(json.dumps(read(path, file) | values))
    def text(**values):
        return lambda path: (path/"config.json").write_text(json.dumps(read(path, "config.json")
            | {"text_config": read(path, "config.json")["text_config"] | values}))
    def remote(file, **mapping):
        def change(path):
            (path/"evil.py").write_text(code + "class Evil: pass\n")
            edit(file, auto_map=mapping, **({"model_type": "evil"} if file == "config.json" else {}))(path)
        return change
    def pickled(path):
        (path/"model.safetensors").unlink()
        (path/"pytorch_model.bin").write_bytes(pickle.dumps(Evil(ran)))
    def tensors(change):
        def write(path):
            save_file(change(load_file(path/"model.safetensors")), path/"model.safetensors", {"format": "pt"})
        return write
    first = lambda found: next(name for name in sorted(found) if "language_model" in name)
    def led_out(path):
        (path/"model.safetensors").rename(path.with_name("out.safetensors"))
        index = {"metadata": {}, "weight_map": {"x": "../out.safetensors"}}
        (path/"model.safetensors.index.json").write_text(json.dumps(index))
    template = ("{% for x in ().__class__.__base__.__subclasses__() %}{% if 'Popen' in x.__name__ %}{{ x(['touch', '"
                + str(ran) + "']) }}{% endif %}{% endfor %}")
    cases = {
        "as it came": (lambda p: None, "ok"), "no configuration": (lambda p: (p/"config.json").unlink(), "refused"),
        "configuration is a list": (lambda p: (p/"config.json").write_text("[]"), "refused"),
        "configuration is not JSON": (lambda p: (p/"config.json").write_text("{"), "refused"),
        "no kind of model": (lambda p: (p/"config.json").write_text("{}"), "refused"),
        "an unknown kind": (edit("config.json", model_type="magic"), "refused"),
        "a model of text": (edit("config.json", model_type="gpt2"), "refused"),
        "code for its configuration": (remote("config.json", AutoConfig="evil.Evil",
                                              AutoModelForImageTextToText="evil.Evil"), "refused"),
        "code for its processor": (remote("processor_config.json", AutoProcessor="evil.Evil"), "ok"),
        "code for its tokenizer": (remote("tokenizer_config.json", AutoTokenizer=["evil.Evil", "evil.Evil"]), "ok"),
        "a processor class nobody knows": (edit("processor_config.json", processor_class="EvilProcessor"), "refused"),
        "a pickle of weights": (pickled, "refused"),
        "a pickle called safetensors": (lambda p: (p/"model.safetensors").write_bytes(pickle.dumps(Evil(ran))),
                                        "refused"),
        "no weights": (lambda p: (p/"model.safetensors").unlink(), "refused"),
        "weights cut short": (lambda p: os.truncate(p/"model.safetensors", 100_000), "refused"),
        "empty weights": (lambda p: os.truncate(p/"model.safetensors", 0), "refused"),
        "weights of nothing": (tensors(lambda found: {}), "refused"),
        "one tensor missing": (tensors(lambda found: {k: v for k, v in found.items() if k != first(found)}),
                               "refused"),
        "one tensor of another shape": (tensors(lambda found: found | {first(found): found[first(found)][:1]}),
                                        "refused"),
        "weights not a number": (tensors(lambda found: found | {first(found): found[first(found)] * np.nan}),
                                 "refused"),
        "an index that leads out of the folder": (led_out, "ok"),
        "no processor": (lambda p: (p/"processor_config.json").unlink(), "refused"),
        "processor is a list": (lambda p: (p/"processor_config.json").write_text("[]"), "refused"),
        "no tokenizer": (lambda p: ((p/"tokenizer.json").unlink(), (p/"tokenizer_config.json").unlink()), "refused"),
        "tokenizer is not JSON": (lambda p: (p/"tokenizer.json").write_text("{"), "refused"),
        "a template that runs programs": (lambda p: (p/"chat_template.jinja").write_text(template), "refused"),
        "a template that is broken": (lambda p: (p/"chat_template.jinja").write_text("{% for %}"), "refused"),
        "a template without pictures": (lambda p: (p/"chat_template.jinja").write_text("{{ messages[0]['role'] }}"),
                                        "refused"),
        "a template without end": (lambda p: (p/"chat_template.jinja")
                                   .write_text("{% for i in range(999999999) %}x{% endfor %}"), "refused"),
        "10,000,000,000 words": (text(vocab_size=10**10), "refused"),
        "1,000,000,000 wide": (text(hidden_size=10**9), "refused"),
        "100,000,000 layers": (text(num_hidden_layers=10**8), "refused"),
        "width of 0": (text(hidden_size=0), "refused"), "width of -1": (text(hidden_size=-1), "refused"),
        "width is text": (text(hidden_size="wide"), "refused"),
        "another image token": (edit("config.json", image_token_id=5), "refused"),
        "weights of another type": (edit("config.json", dtype="__import__('os').system('true')"), "refused")}
    for name, (change, ends) in cases.items():
        yield ("model", name,
               ["shift", str(picture), "--steps", "0", "--model", str(model(name, change)), "--out", "{}"], ends)
    for name, given in {"no such folder": str(folder/"none"), "a file": str(picture),
                        "an adapter": str(good/"adapters"/"stage1"), "a name nobody has": "no-one/nothing",
                        "an empty name": "", "a name of dots": "../../etc",
                        "an address": "http://127.0.0.1:9/model"}.items():
        yield ("model", name, ["shift", str(picture), "--steps", "0", "--model", given, "--out", "{}"],
               "refused" if given else "ok")


# ---- Settings -------------------------------------------------------------------------------------------------------

YAML = {
    "an unknown key": "sed: 1", "a list": "- seed", "one word": "seed", "a number": "7",
    "a wrong type": "max_steps: many", "a list for a number": "max_steps: [1, 2]",
    "a mapping for a number": "seed: {a: 1}",
    "an object tag": "seed: !!python/object/apply:os.system ['touch RAN']", "a module tag": "seed: !!python/module:os",
    "an object new": "seed: !!python/object/new:os.system ['touch RAN']", "a tag of one's own": "seed: !evil 1",
    "a tab": "seed:\t\n\t- 1", "an open quote": "model: \"a",
    "aliases of aliases": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")),
    "two documents": "seed: 1\n---\nseed: 2", "not text": b"\xff\xfe\x00seed", "NUL": "seed: \x00",
    "a key that is a list": "? [a]\n: 1",
    "itself": "config: me.yaml", "an alias to itself": "set: &x [*x]", "a word of choice that is none": "form: third",
    "a set without =": "set: [beta]", "true for a number": "batch_size: true",
    "a seed of a million digits": "seed: " + "9" * 5000}


def yaml(folder):
    folder.mkdir()
    command = lambda file: ["train", "--data", "DATA", "--out", "{}", "--stage", "1", "--config", str(file)]
    for name, content in YAML.items():
        file = folder/f"{name}.yaml"
        file.write_bytes(content if isinstance(content, bytes) else content.replace("RAN", str(folder/"ran")).encode())
        yield "settings", name, command(file), "refused" if name == "a set without =" else "usage"
    (folder/"empty.yaml").write_text("")
    yield ("settings", "an empty file",
           ["train", "--data", "DATA", "--out", "{}", "--stage", "1", "--max-steps", "1", "--config",
            str(folder/"empty.yaml")], "ok")
    yield "settings", "no such file", command(folder/"none.yaml"), "usage"
    yield "settings", "a folder", command(folder), "usage"
    for name, content in {"prompts, a list": "- a",
                          "prompts, an object tag": f"a: !!python/object/apply:os.system ['touch {folder/'ran'}']",
                          "prompts, no answer in them": "logic:\n  text: Lie!", "prompts, a number": "logic: 7",
                          "prompts, empty": ""}.items():
        (folder/f"{name}.yaml").write_text(content)
        yield ("settings", name,
               ["pairs", "make", "--injector", "openai", "--base-url", "http://127.0.0.1:9/v1", "--n", "2",
                "--dry-run", "--prompts", str(folder/f"{name}.yaml"), "--out", "{}"], "refused")


def numbers(folder):
    folder.mkdir()
    train = ["train", "--data", "DATA", "--out", "{}", "--stage", "1", "--max-steps", "1"]
    for words in ("--beta -1", "--beta nan", "--beta inf", "--nll-weight -1", "--nll-weight nan", "--learning-rate -1",
                  "--learning-rate nan", "--learning-rate inf", "--rank 0", "--rank -1", "--rank 1000000000",
                  "--batch-size 0", "--batch-size -1",
                  "--epochs 0 --max-steps 0", "--epochs nan --max-steps 0", "--epochs -1 --max-steps 0",
                  "--epochs inf --max-steps 0", "--max-steps -5", "--save-steps 0", "--save-steps -1", "--limit 0",
                  "--limit -1", "--seed -1", "--seed 99999999999999999999", "--processes 2", "--processes 0",
                  "--set beta", "--set =1", "--set nothing=1", "--set stage3.beta=1", "--set stage1.beta=wide",
                  "--set learning_rate=fast", "--set learning_rate=[1]", "--set max_length=1", "--set max_length=-1",
                  "--set save_minutes=-1", "--set lora_alpha=nan", "--set output_dir=/tmp/elsewhere",
                  "--set adam_beta1=2", "--set max_grad_norm=-1", "--set lr_scheduler_type=magic", "--set optim=magic",
                  "--set gradient_accumulation_steps=0", "--set weight_decay=nan", "--set label_smoothing=2",
                  "--set loss_type=magic", "--set per_device_train_batch_size=0", "--set warmup_steps=-1",
                  "--set data_seed=-1", "--set push_to_hub=true", "--set report_to=magic",
                  "--noise-step 500"): yield "number", f"train {words}", [*train, *words.split(" ")], "refused"
    two = ["train", "--data", "DATA", "--out", "{}", "--stage", "2", "--max-steps", "1"]
    for words in ("--noise-step -1", "--noise-step 1000", "--set noise_step=[1,2]", "--set noise_step=half",
                  "--set noise_draw=magic", "--set alpha=-1", "--set beta1=nan"):
        yield "number", f"train --stage 2 {words}", [*two, *words.split(" ")], "refused"
    for words in ("--beta much", "--rank 1.5", "--stage 3", "--form magic", "--noise-tokens some", "--epochs few"):
        yield "number", f"train {words}", [*train, *words.split(" ")], "usage"
    for words, ends in {"--n 0": "refused", "--n -1": "refused", "--n many": "usage", "--n 1.5": "usage",
                        "--kinds magic": "refused", "--kinds ,": "refused", "--injector magic": "usage",
                        "--placement top": "usage", "--how loud": "usage", "--dry-run": "refused",
                        "--batch status": "refused", "--seed -1": "ok", "--injector openai --budget -1": "refused",
                        "--injector openai --budget nan": "refused", "--injector openai --budget 0": "refused",
                        "--injector openai --budget inf": "ok", "--injector openai --base-url nowhere": "refused",
                        "--injector openai --base-url ftp://127.0.0.1": "refused"}.items():
        more = [] if "openai" not in words else ["--dry-run"] if "url" not in words else []
        at = [] if "openai" not in words or "url" in words else ["--base-url", "http://127.0.0.1:9/v1"]
        yield ("number", f"pairs make {words}",
               ["pairs", "make", "--n", "2", "--out", "{}", *words.split(" "), *more, *at], ends)
    for words in ("--n 0", "--n -1", "--pairs 0", "--pairs -1", "--max-new-tokens 0", "--max-new-tokens -1",
                  "--batch-size 0", "--batch-size -1", "--seed -1", "--set beta=-1", "--set stage2.noise_step=1000",
                  "--set nothing=1", "--set sft.beta=1", "--images x", "--test-images x", "--quantize 4bit"):
        yield ("number", f"run {words}", ["run", "--n", "1", "--pairs", "2", "--out", "{}", *words.split(" ")],
               "refused")
    (folder/"a.png").write_bytes(saved("PNG"))
    for steps in ("-1", "1000", "a", "", "1.5", "0:1000:0", "0:1000:-1", "500:0:10", "0:1e9:1", "1,,2", ",", "nan"):
        yield ("number", f"shift --steps '{steps}'", ["shift", str(folder/"a.png"), "--out", "{}", f"--steps={steps}"],
               "refused")
    for words in ("--limit 0", "--limit -1", "--max-new-tokens 0", "--max-new-tokens -1", "--bench magic",
                  "--bench chair,", "--seed -1 --bench pope --limit 0", "--by magic"):
        yield ("number", f"eval {words}", ["eval", "--out", "{}", *words.split(" ")],
               "usage" if re.search("--by|--limit|--max", words) else "refused")
    for words in ("--words zebra", "--answer=", "--words ,"):
        yield ("number", f"attend {words}", ["attend", str(folder/"a.png"), "--out", "{}", *words.split(" ")],
               "ok" if words == "--words ," else "refused")


# ---- Answers and annotations ----------------------------------------------------------------------------------------

TRUTH = {"1": ["cup", "fork"], "2": ["dog"]}
ANSWERS = {
    "an empty file": b"", "not JSON": b"hello", "a number": b"7", "null": b"null", "a list of numbers": b"[1, 2]",
    "a list of null": b"[null, null]", "an empty list": b"[]", "bytes": bytes(range(256)),
    "UTF-16 without a mark": '{"image_id": 1}'.encode("utf-16-le"),
    "no id": b'[{"caption": "A cup."}]', "the id is null": b'[{"image_id": null, "caption": "A cup."}]',
    "the id is a list": b'[{"image_id": [1], "caption": "A cup."}]',
    "the id is not a number": b'[{"image_id": NaN, "caption": "a"}]',
    "the same id twice": b'[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}, {"image_id": 2, '
                         b'"caption": "b"}]',
    "a caption is null": b'[{"image_id": 1, "caption": null}, {"image_id": 2, "caption": "a"}]',
    "a caption is a list": b'[{"image_id": 1, "caption": ["a"]}, {"image_id": 2, "caption": "a"}]',
    "two fields of text": b'[{"image_id": 1, "text": "What?", "answer": "a"}, {"image_id": 2, "text": "What?", '
                          b'"answer": "b"}]',
    "a torn last line": b'{"image_id": 1, "caption": "A cup."}\n{"image_id": 2, "cap',
    "a torn middle line": b'{"image_id": 1, "cap\n{"image_id": 2, "caption": "A dog."}',
    "another picture": b'[{"image_id": 77, "caption": "a"}]',
    "a key twice": b'[{"image_id": 1, "image_id": 2, "caption": "a"}]',
    "a column is missing": b"image_id,caption\n1\n2,b", "100,000 brackets": b"[" * 100_000,
    "a table of nothing": b"image_id,caption\n"}


def answers(folder):
    folder.mkdir()
    (folder/"truth.json").write_text(json.dumps(TRUTH))
    (folder/"good.json").write_text(json.dumps([{"image_id": i, "caption": "A cup."} for i in (1, 2)]))
    score = lambda file, truth=folder/"truth.json": ["eval", "--bench", "chair", "--answers", str(file),
                                                     "--annotations", str(truth), "--out", "{}"]
    yield "answers", "as they should be", score(folder/"good.json"), "ok"
    for name, content in ANSWERS.items():
        (folder/f"{name}.json").write_bytes(content)
        yield "answers", name, score(folder/f"{name}.json"), "refused"
    for name, content in {"a list": "[]", "empty": "{}", "null": "null",
                          "a number for the objects": '{"1": 3, "2": ["dog"]}',
                          "no instances": '{"images": [], "annotations": []}',
                          "categories are text": '{"images": [{"id": 1}], "categories": "cup", "annotations": []}',
                          "annotations are null": '{"images": [{"id": 1}], "categories": [], "annotations": null}',
                          "a count below one": '{"1": {"cup": 0, "dog": -1}, "2": ["dog"]}'}.items():
        (folder/f"truth {name}.json").write_text(content)
        yield "answers", f"annotations: {name}", score(folder/"good.json", folder/f"truth {name}.json"), "refused"
    yield "answers", "no such file", score(folder/"none.json"), "refused"
    yield "answers", "a folder", score(folder), "refused"
    os.mkfifo(folder/"pipe.json")
    yield "answers", "a pipe", score(folder/"pipe.json"), "refused"


AREAS = {"pictures": pictures, "pairs": pairs, "adapters": adapters, "models": models, "settings": yaml,
         "numbers": numbers, "answers": answers}

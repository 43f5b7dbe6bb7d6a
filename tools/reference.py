"""The reference page's text, read off the modules themselves: each room, its public names, signatures and
parameters."""
import ast, io, json, re, tokenize
from pathlib import Path
from tools.floors import FLOORS, LIBRARY, public

# parameters without a comment of their own
COMMON = json.loads(Path(__file__).with_name("parameters.json").read_text(encoding="utf-8"))


# The names that most users need, each with a snippet; a test runs them all, in this order
TWELVE = (
    ("VLM.load", "vlm", "A model and its processor", """from povid_nb.vlm import VLM
vlm = VLM.load("tiny")                    # or a name on the hub, with quantize="4bit" and an adapter"""),
    ("scenes", "world", "Drawn scenes whose truth is known", """from povid_nb import world
scene = world.scenes("counter", "test", 40)[39]"""),
    ("VLM.describe", "vlm", "What the model writes of a picture, or answers", """text = vlm.describe(scene)
answer = vlm.describe(scene, "Is there a knife in the image?")"""),
    ("VLM.next_tokens", "vlm", "The words that could come next",
     """words = vlm.next_tokens(scene, prefix="There is a")"""),
    ("VLM.score", "vlm", "How probable a given answer is",
     """logps = vlm.score(scene, "Describe this image.", scene.caption()).logps"""),
    ("score", "chair", "CHAIR: what is named against what is there", """from povid_nb import chair, measure
found = chair.score([text], [scene.objects], measure.VOCABULARY)"""),
    ("add_noise", "noise", "A picture after a step of diffusion noise", """from povid_nb.noise import add_noise
noisy = add_noise(scene.image(), 500, scene.seed)"""),
    ("sweep", "shift", "How the next word moves as noise rises", """from povid_nb.shift import sweep
curves = sweep(vlm, scene, prefix="There is a", steps=(0, 500, 999), seeds=1)"""),
    ("make_pairs", "inject", "Preference pairs, by rule, by the model itself or by a service",
     """from povid_nb.inject import make_pairs
make_pairs("world", n=8, out="runs/few-pairs", progress=False)"""),
    ("train", "stages", "Two stages of preference tuning", """from povid_nb import formats, stages
pairs = list(formats.load("runs/few-pairs/pairs.jsonl"))
tuned = stages.train(vlm, pairs, "runs/few", stage="1", max_steps=1)"""),
    ("evaluate", "benches", "A model, or a file of answers, on a benchmark", """from povid_nb.benches import evaluate
tallies = evaluate("chair", vlm=vlm, limit=2, out="runs/few-eval")"""),
    ("attend", "attention", "Where an answer looks", """from povid_nb.attention import attend
looked = attend(vlm, scene, "Describe this image.", text)"""))


def twelve():
    "The twelve names, each with its snippet"
    parts = [f"**[{name}](#{room}-{name.partition('.')[0]})**: {about}.\n\n```python\n{code}\n```"
             for name, room, about, code in TWELVE]
    return "\n\n".join(["## The twelve names you need\n\nThey run in this order as they stand here.", *parts]) + "\n"


def comments(text):
    "Line -> the comment that ends it"
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {t.start[0]: t.string.lstrip("# ").strip() for t in tokens if t.type == tokenize.COMMENT}


def arguments(node):
    "(argument, how it stands in the signature) for each argument of a function but `self` and `cls`"
    args, defaults = [*node.args.posonlyargs, *node.args.args], node.args.defaults
    padded = [None] * (len(args) - len(defaults)) + defaults
    pairs = [*zip(args, padded), *zip(node.args.kwonlyargs, node.args.kw_defaults)]
    for arg, default in pairs:
        if arg.arg in ("self", "cls"): continue
        text = arg.arg if arg.annotation is None else f"{arg.arg}: {ast.unparse(arg.annotation)}"
        yield arg, text if default is None else f"{text} = {ast.unparse(default)}"
    if node.args.vararg: yield node.args.vararg, f"*{node.args.vararg.arg}"
    if node.args.kwarg: yield node.args.kwarg, f"**{node.args.kwarg.arg}"


def signature(name, node):
    "name(...) -> type, over several lines where one would be too long"
    parts = [text for _, text in arguments(node)]
    ends = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{name}({', '.join(parts)}){ends}"
    return line if len(line) <= 88 else f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){ends}"


def parameters(node, said):
    "What each parameter is: its comment, or what a parameter of that name is everywhere"
    rows = [(arg.arg, said.get(arg.lineno) or COMMON.get(arg.arg)) for arg, _ in arguments(node)]
    lines = [f"- `{name}`: {text}" for name, text in rows if text]
    return "\n".join(lines) + "\n\n" * bool(lines)


def entry(room, name, node, said, methods=()):
    "One public function or class of a room"
    doc = (ast.get_docstring(node) or "").split("\n")[0]
    if isinstance(node, ast.FunctionDef):
        return (f"### `{name}` {{#{room}-{name}}}\n\n```python\n{signature(name, node)}\n```\n\n{doc}\n\n"
                f"{parameters(node, said)}")
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
    made = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    head = signature(name, made) if made else name
    text = f"### `{name}` {{#{room}-{name}}}\n\n```python\nclass {head}\n```\n\n{doc}\n\n"
    if made: text += parameters(made, said)
    for field in fields:
        text += f"- `{ast.unparse(field)}`" + (f": {said[field.lineno]}" if field.lineno in said else "") + "\n"
    for part in methods:
        line = " ".join(signature(f".{part.name}", part).split()).replace("( ", "(").replace(",)", ")")
        first = (ast.get_docstring(part) or "").split("\n")[0]
        text += f"- `{line}`" + (f": {first}" if first else "") + "\n"
        text += "".join(f"    {row}\n" for row in parameters(part, said).splitlines() if row)
    return text.rstrip("\n") + "\n\n"


def methods_of(name, node, tree):
    "The public methods of a class, those that cells of their own add among them"
    own = [part for part in node.body if isinstance(part, ast.FunctionDef)]
    added = [part for part in tree.body if isinstance(part, ast.FunctionDef) and part.args.args
             and getattr(part.args.args[0].annotation, "id", None) == name and part.args.args[0].arg == "self"]
    return [part for part in own + added if not part.name.startswith("_")]


def module(name):
    "The reference of one module"
    text = (LIBRARY/f"{name}.py").read_text(encoding="utf-8")
    tree, said, names = ast.parse(text), comments(text), public(LIBRARY/f"{name}.py")
    path = re.search(r"File to edit: \.\./nbs/(\S+\.ipynb)", text)[1]
    about = (ast.get_docstring(tree) or "").split("\n")[0]
    parts = [f"## `{name}` {{#{name}}}\n\n{about} ([how it is made]({path}))\n\n"]
    defined = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    values = [f"`{n}`" for n in names if n not in defined]
    if values: parts.append(f"Values: {', '.join(values)}\n\n")
    for n in names:
        if n not in defined: continue
        node = defined[n]
        parts.append(entry(name, n, node, said, methods_of(n, node, tree) if isinstance(node, ast.ClassDef) else ()))
    return "".join(parts).rstrip() + "\n"


def modules():
    "All modules, from the lowest floor up"
    there = [name for name in FLOORS if (LIBRARY/f"{name}.py").exists()]
    return sorted(there, key=lambda name: FLOORS[name])


def table():
    "All modules in one table, their names leading to the entries below"
    rows = ["| floor | module | what it is | public names |", "|--|----|----------|----------------|"]
    for name in modules():
        text = (LIBRARY/f"{name}.py").read_text(encoding="utf-8")
        tree = ast.parse(text)
        defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        link = lambda n: f"[{n}](#{name}-{n})" if n in defined else f"`{n}`"
        about = (ast.get_docstring(tree) or "").split("\n")[0]
        rows.append(f"| {FLOORS[name]} | [{name}](#{name}) | {about} | "
                    f"{', '.join(map(link, public(LIBRARY/f'{name}.py')))} |")
    return "\n".join(rows)

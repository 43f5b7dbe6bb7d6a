"The reference page's twelve names: each snippet runs, as it stands there"
import ast
from tools import reference
from tools.floors import LIBRARY, public


def test_the_twelve_snippets_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for name, room, _, code in reference.TWELVE: exec(compile(code, name, "exec"), names)
    assert "knife" in names["text"] and names["found"].chair_s == 1 and names["curves"].probs.shape[0] == 3
    assert (tmp_path/"runs"/"few"/"adapter").is_dir() and names["tallies"]["chair"].n == 2


def test_the_twelve_are_public():
    assert len(reference.TWELVE) == 12
    for name, room, _, code in reference.TWELVE:
        assert name.partition(".")[0] in public(LIBRARY/f"{room}.py") and name.split(".")[-1] in code


def entries():
    """(room, name, function or class) for each public name of the library, its class's __init__ for a class that
    has one"""
    for room in reference.modules():
        text = (LIBRARY/f"{room}.py").read_text()
        defined = {node.name: node for node in ast.parse(text).body
                   if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        said = reference.comments(text)
        for name in set(public(LIBRARY/f"{room}.py")) & set(defined): yield room, name, defined[name], said


def test_every_public_name_is_explained():
    "What it does or is, what comes back, and what each parameter is"
    silent, all_names = [], 0
    for room, name, node, said in entries():
        all_names += 1
        if not ast.get_docstring(node): silent.append(f"{room}.{name}: no docstring")
        if isinstance(node, ast.FunctionDef) and not node.returns: silent.append(f"{room}.{name}: what comes back?")
        made = (node if isinstance(node, ast.FunctionDef)
                else next((part for part in node.body if getattr(part, "name", "") == "__init__"), None))
        rows = reference.parameters(made, said) if made else ""
        silent += [f"{room}.{name}: what is {arg.arg}?" for arg, _ in (reference.arguments(made) if made else ())
                   if f"- `{arg.arg}`: " not in rows]
    assert all_names > 200 and not silent, silent


def methods():
    "(class.method, its definition, comments) for each public method of a public class"
    for room, name, node, said in entries():
        if isinstance(node, ast.ClassDef):
            for part in reference.methods_of(name, node, ast.parse((LIBRARY/f"{room}.py").read_text())):
                yield f"{name}.{part.name}", part, said


def test_every_public_method_is_explained():
    silent, all_names = [], 0
    for name, node, said in methods():
        all_names += 1
        if not ast.get_docstring(node): silent.append(f"{name}: no docstring")
        if not node.returns: silent.append(f"{name}: what comes back?")
        rows, named = reference.parameters(node, said), [arg for arg, _ in reference.arguments(node)]
        silent += [f"{name}: what is {arg.arg}?" for arg in named if f"- `{arg.arg}`: " not in rows
                   and arg not in (node.args.vararg, node.args.kwarg)]
        silent += [f"{name}: of what type is {arg.arg}?" for arg in named if not arg.annotation
                   and arg not in (node.args.vararg, node.args.kwarg)]
    assert all_names > 100 and not silent, silent


def test_the_common_words_are_all_needed():
    functions = [(made, said) for *_, node, said in entries() for made in [node, *getattr(node, "body", [])]
                 if isinstance(made, ast.FunctionDef)]
    bare = {arg.arg for made, said in [*functions, *((node, said) for _, node, said in methods())]
            for arg, _ in reference.arguments(made) if arg.lineno not in said}
    assert not reference.COMMON.keys() - bare

"The rooms of the library: one idea each, few public names, each of them documented, typed and shown in use"
import ast, importlib, inspect, io, json, re, tokenize, types
from pathlib import Path
import pytest
from tools import floors, links

ROOT = Path(__file__).parents[2]
MODULES = floors.modules()
SOURCE = {file.stem: file.read_text(encoding="utf-8") for file in MODULES}
NAMES = {file.stem: floors.public(file) for file in MODULES}
each_module = pytest.mark.parametrize("module", sorted(SOURCE))

# What the rooms still owe. A line goes when it is paid: the test fails for a module that is listed and owes nothing.
OWED = {
    "examples": {"noise"},
    "one name": set()}


def settle(kind, name, faults):
    "Fail for faults that are not owed, and for a debt that is paid"
    if name not in OWED[kind]: assert not faults, faults
    else: assert faults, f"{name} owes no {kind} any more: take it off the list"


def notebook_of(module):
    return re.search(r"File to edit: \.\./nbs/(\S+\.ipynb)", SOURCE[module])[1]


def shown(module):
    "The code of a module's notebook that is run to be seen, and not exported"
    cells = json.loads((ROOT/"nbs"/notebook_of(module)).read_text(encoding="utf-8"))["cells"]
    code = [links.source(cell) for cell in cells if cell["cell_type"] == "code"]
    return "\n".join(text for text in code if not re.search(r"^#\| *export", text, re.MULTILINE))


def definitions(module):
    "The public functions and classes of a module, and the public methods of these classes"
    tree = ast.parse(SOURCE[module])
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in NAMES[module]: yield node.name, node


def is_patched(node):
    return any(getattr(d, "id", "") == "patch" for d in node.decorator_list)


# ---- Size -----------------------------------------------------------------------------------------------------------

@each_module
def test_a_module_has_at_most_400_lines(module):
    assert len(SOURCE[module].splitlines()) <= 400


def test_few_names_are_public():
    counts = {module: len(names) for module, names in NAMES.items()}
    assert sum(counts.values()) <= 250, counts


def long_lines(code):
    "Lines of over 119 characters, apart from those inside a text over several lines, which may be prose"
    inside, written = set(), ("# %%", '"""', "__all__", "#|")      # by nbdev, and for it
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.STRING: inside.update(range(token.start[0], token.end[0]))
    return [line for n, line in enumerate(code.splitlines(), 1)
            if len(line) > 119 and n not in inside and not line.startswith(written)]


def test_long_lines_are_found():
    assert long_lines("x = 1" + " " * 120 + "# far\ny = \"\"\"" + "a" * 120 + "\nb\"\"\"\n") == ["x = 1" + " " * 120
        + "# far"]


@each_module
def test_lines_can_be_read_without_scrolling(module):
    assert not long_lines(SOURCE[module])


@pytest.mark.parametrize("folder", ["nbs", "tests", "tools", "bench"])
def test_lines_of_code_that_is_not_exported_can_be_read_without_scrolling(folder):
    found = {}
    for file in sorted((ROOT/folder).rglob("*.py")): found[file.name] = long_lines(file.read_text(encoding="utf-8"))
    for file in sorted((ROOT/folder).rglob("*.ipynb")):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        code = [links.source(cell) for cell in cells if cell["cell_type"] == "code"]
        found[file.name] = [line for text in code
                            for line in long_lines(re.sub(r"^[%!]", "#", text, flags=re.MULTILINE))]
    assert not {name: lines for name, lines in found.items() if lines}


# ---- One idea -------------------------------------------------------------------------------------------------------

@each_module
def test_the_first_line_says_the_idea_in_a_sentence(module):
    first = SOURCE[module].split('"""')[1]
    assert first[0].isupper() and len(first.split()) >= 6 and len(first) < 140, first


def test_a_workshop_notebook_has_the_name_of_its_module_and_no_number():
    for module in SOURCE:
        path = Path(notebook_of(module))
        # a lesson has the name of its question
        assert (path.name == f"{module}.ipynb" if path.parent.name == "workshop"
                else re.fullmatch(r"\d\d_\w+\.ipynb", path.name))


# ---- Public names ---------------------------------------------------------------------------------------------------

@each_module
def test_public_names_say_what_comes_back(module):
    faults = [name for name, node in definitions(module) if (ast.get_docstring(node) or "a")[0].islower()]
    assert not faults, f"a docstring is missing, or begins in lower case: {faults}"


@each_module
def test_public_functions_have_types(module):
    faults = []
    for name, node in definitions(module):
        if not isinstance(node, ast.FunctionDef): continue
        args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        faults += [f"{name}({arg.arg})" for arg in args if arg.annotation is None and arg.arg not in ("self", "cls")]
        if node.returns is None: faults.append(f"{name} ->")
    assert not faults, f"types are missing: {', '.join(faults)}"


@each_module
def test_public_functions_are_shown_in_use(module):
    code = shown(module)
    # classes come back from them
    functions = [name for name, node in definitions(module) if isinstance(node, ast.FunctionDef)]
    settle("examples", module, [name for name in functions if not re.search(rf"\b{name}\b", code)])


@each_module
def test_methods_do_not_also_appear_as_functions(module):
    patched = {node.name for node in ast.parse(SOURCE[module]).body if isinstance(node, ast.FunctionDef)
               and is_patched(node)}
    there = importlib.import_module(f"povid_nb.{module}")
    stray = [name for name in patched if inspect.isfunction(getattr(there, name, None)) and name not in NAMES[module]]
    assert not stray


def test_one_name_is_defined_in_one_module():
    "The same public name in two modules would be two things with one name"
    seen = {}
    for module in SOURCE:
        for name, _ in definitions(module): seen.setdefault(name, []).append(module)
    assert {name for name, where in seen.items() if len(where) > 1} == OWED["one name"]


# ---- Requirements ---------------------------------------------------------------------------------------------------

IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml"}

def test_every_requirement_is_imported():
    "By the library, or by a notebook: TRL stands beside our trainer in one"
    wanted = [re.match(r"[\w-]+", part)[0] for part in links.settings()["requirements"].split()]
    cells = [cell for file in links.notebooks() for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]]
    text = "\n".join([*SOURCE.values(), *(links.source(cell) for cell in cells if cell["cell_type"] == "code")])
    unused = [name for name in wanted
              if not re.search(rf"^\s*(from|import) .*\b{IMPORTED_AS.get(name, name)}\b", text, re.MULTILINE)]
    assert not unused, f"settings.ini requires what no module imports: {unused}"

"""Exports and cleans all notebooks, and fails when that changes a file: notebooks and modules must be committed in
step."""
import subprocess, sys
from hashlib import sha256
from pathlib import Path
from shutil import which

ROOT = Path(__file__).parents[1]


def fingerprints():
    "What each notebook and each module holds now"
    files = [*ROOT.glob("nbs/**/[!.]*.ipynb"), *ROOT.glob("povid_nb/**/*.py")]
    return {str(file.relative_to(ROOT)): sha256(file.read_bytes()).hexdigest()
            for file in files if ".ipynb_checkpoints" not in file.parts}


before = fingerprints()
for command in ("nbdev_export", "nbdev_clean"):
    subprocess.run([Path(sys.executable).with_name(command)], cwd=ROOT, check=True)
after = fingerprints()

changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
if changed:
    print("Notebooks and modules were not in step; nbdev_export and nbdev_clean have just changed:", *changed,
          sep="\n  ")
    if which("git") and (ROOT/".git").exists():
        subprocess.run(["git", "--no-pager", "diff", "--stat", "--", *changed], cwd=ROOT)
    sys.exit("Look at the changes and commit them.")
print(f"{len(after)} notebooks and modules are in step.")

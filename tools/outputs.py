"""Runs notebooks and saves what they show: python -m tools.outputs [NAME ...]  (all when none is named)
Cells whose flags `nbdev_test` skips (settings.ini, tst_flags) are skipped here too, and keep the outputs they have.
"""
import os, re, sys, tempfile
import nbformat
from nbclient import NotebookClient
from tools.links import ROOT, notebooks, settings

VIEW = "application/vnd.jupyter.widget-view+json"
SKIPPED = settings()["tst_flags"].split()


def is_skipped(cell):
    flags = re.findall(r"^#\|\s*(\S+)", cell.source, re.MULTILINE)
    return bool(set(flags) & set(SKIPPED)) or bool(re.search(r"^#\|\s*eval:\s*false", cell.source, re.MULTILINE))


class Client(NotebookClient):
    async def async_execute_cell(self, cell, *args, **kwargs):
        if is_skipped(cell): return cell
        return await super().async_execute_cell(cell, *args, **kwargs)


def joined(outputs):
    "Text that came in pieces, as on a busy machine, as one"
    found = []
    for output in outputs:
        if found and output.get("name") and found[-1].get("name") == output["name"]:
            found[-1]["text"] += output["text"]
        else: found.append(output)
    return [output for output in found if output.output_type != "stream" or output["text"].strip()]


def save_outputs(file):
    nb = nbformat.read(file, as_version=4)
    Client(nb, timeout=1200, kernel_name="python3", store_widget_state=True,
           resources={"metadata": {"path": str(file.parent)}}).execute()
    for cell in nb.cells:      # progress bars and warnings go to stderr: they are no results
        if cell.cell_type == "code": cell.outputs = joined(o for o in cell.outputs if o.get("name") != "stderr")
    if not any(VIEW in o.get("data", {}) for cell in nb.cells for o in cell.get("outputs", [])):
        nb.metadata.pop("widgets", None)
    nbformat.write(nb, file)


os.environ["POVID_HOME"] = tempfile.mkdtemp()      # a reader's progress is empty at first, whoever saves these outputs
if __name__ == "__main__":
    names = sys.argv[1:]
    if unknown := set(names) - {file.stem for file in notebooks()}:
        sys.exit(f"No such notebook in nbs: {', '.join(sorted(unknown))}. Names are without folder and ending, as "
                 f"03_noise.")
    for file in notebooks():
        if names and file.stem not in names: continue
        print(file.relative_to(ROOT), flush=True)
        save_outputs(file)

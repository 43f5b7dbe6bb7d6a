"""The picture of the front page, from a finished `make demo`:

    python -m tools.front runs/demo     writes nbs/images/front.png
"""
import json, re, sys, textwrap
from pathlib import Path
import matplotlib.pyplot as plt
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker
from povid_nb import viz, world
from povid_nb.measure import VOCABULARY
from tools.links import ROOT

SCENE = 39                                   # of the counter-typical test scenes: a fork, and no knife
TOLD = {"base": "before", "stage2": "after POVID"}
BARS = {"base": ("before", viz.COLOURS["sky"]), "sft": ("plain\nfine-tuning", "#bbbbbb"),
        "stage2": ("POVID", viz.COLOURS["blue"])}


def caption(out, who, scene):
    rows = map(json.loads, (Path(out)/"said"/who/"counter"/"captions.jsonl").read_text().splitlines())
    return next(row["caption"] for row in rows if row["id"] == scene.seed)


def paragraph(text, wrong):
    "The text in lines, what is not in the picture marked"
    def word(w):
        bad = re.sub(r"\W", "", w).lower() in wrong
        return TextArea(w,
                        textprops=dict(size=11, color=viz.COLOURS["wrong"] if bad else "black",
                                       weight="bold" if bad else "normal"))
    return VPacker(children=[HPacker(children=[word(w) for w in line.split()], pad=0, sep=3.5)
                             for line in textwrap.wrap(text, 44)], pad=0, sep=4)


def draw(out):
    viz.style()
    scene = world.scenes("counter", "test", SCENE + 1)[SCENE]
    report = json.loads((Path(out)/"report.json").read_text())
    fig, (see, say, count) = plt.subplots(1, 3, figsize=(11, 3.1), width_ratios=(1, 1.75, 1.25), layout="constrained")
    see.imshow(scene.image()); see.set_axis_off(); see.set_title("what is there")
    say.set_axis_off(); say.set_title("what the model says")
    parts = []
    for who, told in TOLD.items():
        text = caption(out, who, scene)
        wrong = {m.kind for m in VOCABULARY.find(text)} - scene.objects
        parts += [TextArea(told, textprops=dict(size=10, weight="bold")), paragraph(text, wrong)]
    say.add_artist(AnchoredOffsetbox("center left", child=VPacker(children=parts, pad=0, sep=9), frameon=False, pad=0))
    for i, (who, (name, colour)) in enumerate(BARS.items()):
        measured = report[who]["counter"]["chair"]
        for j, measure in enumerate(("chair_s", "recall")):
            value, (low, high) = measured[measure], measured["intervals"][measure]
            count.bar(j + .27 * (i - 1), 100 * value, .25, color=colour, label=name if j == 0 else None)
            count.errorbar(j + .27 * (i - 1), 100 * value, [[100 * (value - low)], [100 * (high - value)]],
                           color="black", lw=1, capsize=2)
    count.set(title="500 such pictures", xticks=(0, 1),
              xticklabels=("captions that\ninvent, %", "things that are there\nand named, %"), ylim=(0, 100))
    count.grid(axis="x", alpha=0)
    count.legend(fontsize=8, handlelength=1, loc="center left", bbox_to_anchor=(.19, .6))
    return fig


if __name__ == "__main__":
    file = ROOT/"nbs"/"images"/"front.png"
    file.parent.mkdir(exist_ok=True)
    draw(sys.argv[1]).savefig(file, dpi=110)
    print(file)

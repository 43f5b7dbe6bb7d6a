"The site's pages, rendered without Quarto; and the checker that reads them, tried on pages that are broken"
import json, re, shutil
import pytest
from tools import docs, pages

CFG = {"user": "ada", "repo": "course", "branch": "main", "git_url": "https://github.com/ada/course",
       "doc_host": "https://ada.github.io", "doc_baseurl": "/course"}

SOUND = """<h1 id="top">Noise</h1> <a href="#top">up</a> <a href="shift.html#what">next</a> <a href="shift.html">next</a>
<a href="labs/kinds.html">a lab</a> <a href="https://example.org/anything">elsewhere</a> <img src="pictures/cat.png" alt="A cat">
<img src="data:image/png;base64,abcd" alt="Two lines"> <a href="https://ada.github.io/course/shift.html#what">here, in full</a>
<a href="https://github.com/ada/course/blob/main/nbs/03_noise.ipynb">its source</a>
<a href="https://colab.research.google.com/github/ada/course/blob/main/nbs/03_noise.ipynb">on Colab</a>"""


def site(folder, page=SOUND):
    "A small sound site and its repository, with `page` in place of one page"
    for name in ("site/labs", "site/pictures", "repo/nbs"): (folder/name).mkdir(parents=True)
    (folder/"repo"/"nbs"/"03_noise.ipynb").touch()
    (folder/"site"/"pictures"/"cat.png").touch()
    (folder/"site"/"noise.html").write_text(page)
    (folder/"site"/"shift.html").write_text('<h2 id="what">What?</h2>')
    (folder/"site"/"labs"/"kinds.html").write_text('<a href="../noise.html#top">back</a> <a '
                                                   'href="../03_noise.ipynb">back</a>')
    return pages.problems(folder/"site", CFG, folder/"repo")


def test_a_sound_site_has_no_problems(tmp_path):
    assert site(tmp_path) == []


@pytest.mark.parametrize("before, after, problem", [
    ('href="shift.html"', 'href="drift.html"', "broken link: drift.html"),
    ('href="shift.html"', 'href="05_drift.ipynb"', "broken link: 05_drift.ipynb"),
    ('href="shift.html#what"', 'href="shift.html#who"', "no such anchor: shift.html#who"),
    ('href="#top"', 'href="#bottom"', "no such anchor: #bottom"),
    ('"pictures/cat.png"', '"pictures/dog.png"', "no such picture: pictures/dog.png"),
    ('alt="A cat"', 'alt=""', "a picture without words: pictures/cat.png"),
    (' alt="Two lines"', '', "a picture without words: data:image/png"),
    (">up</a>", ">[up](https://up.example)</a>", "a link that is shown as it is written: [up](https://up.example)"),
    ("course/shift.html#what", "course/shift.html#who", "no such anchor: shift.html#who"),
    ("github.com/ada/course/blob/main/nbs/03_noise", "github.com/ada/course/blob/main/nbs/4_noise",
     "no such file in the repository: nbs/4_noise.ipynb"),
    ("google.com/github/ada/course/blob/main/nbs/03_noise", "google.com/github/ada/course/blob/main/nbs/4_noise",
     "no such file in the repository: nbs/4_noise.ipynb"),
])
def test_a_broken_page_is_found(tmp_path, before, after, problem):
    assert before in SOUND
    found = site(tmp_path, SOUND.replace(before, after, 1))
    assert len(found) == 1 and found[0].startswith(f"noise.html: {problem}"), found


def test_every_name_that_an_exported_cell_defines_can_be_linked_to():
    cell = ("@patch\ndef put_on(self: VLM, folder): ...\nclass Run:\n    def __init__(self): ...\n    def "
            "load(self): ...\ndef run(): ...\ndef _own(): ...\nSTEPS = 3")
    assert list(docs.defined(cell)) == ["VLM.put_on", "Run", "Run.load", "run"]


def test_names_are_linked_in_prose_and_nowhere_else():
    there = "https://povid-nb.github.io/povid_nb/noise.html#add_noise"
    said = ("With `add_noise` as in [`add_noise`](03_noise.ipynb):\n```python\nx # see `add_noise`\n```\nand "
            "`nothing`, ![`add_noise`](a.png)")
    assert docs.link_names(said) == said.replace("With `add_noise`", f"With [`add_noise`]({there})")


@pytest.mark.skipif(not shutil.which("pandoc"), reason="needs pandoc (Debian: apt-get install pandoc)")
class TestRendering:
    def notebook(self, folder, *cells):
        nb = {"nbformat": 4, "nbformat_minor": 5,
              "metadata": {"kernelspec": {"name": "python3", "display_name": "python3"}},
              "cells": [{"id": f"c{number}", "metadata": {}, **cell} for number, cell in enumerate(cells)]}
        folder.mkdir()
        (folder/"03_small.ipynb").write_text(json.dumps(nb))
        return folder

    def test_a_saved_picture_gets_its_words(self, tmp_path):
        picture = {"output_type": "display_data", "data": {"image/png": "aGVsbG8="}, "metadata": {}}
        cells = [{"cell_type": "code", "execution_count": None, "source": source, "outputs": [picture]}
                 for source in ('#| fig-alt: "Two lines cross"\nplot()', "plot()")]
        complaints = pages.render(self.notebook(tmp_path/"nbs", *cells), tmp_path/"site")
        page = pages.Page((tmp_path/"site"/"small.html").read_text())
        assert [alt for _, alt in page.pictures] == ["Two lines cross", ""]
        assert complaints == []
        problems = pages.problems(tmp_path/"site", CFG, tmp_path)
        assert len(problems) == 1 and "without words: 03_small_files" in problems[0]

    def test_a_formula_that_does_not_parse_is_told(self, tmp_path):
        cell = {"cell_type": "markdown", "source": r"The loss $\frac{1}{2$ and the sum $\sum_i$."}
        complaints = pages.render(self.notebook(tmp_path/"nbs", cell), tmp_path/"site")
        assert complaints and "frac" in " ".join(complaints)

    def test_the_course(self, tmp_path):
        "All notebooks of the course, as the site shows them"
        complaints = pages.render(pages.process(tmp_path), tmp_path/"site")
        problems = complaints + pages.problems(tmp_path/"site")
        if problems: pytest.fail("\n".join(problems), pytrace=False)
        index = (tmp_path/"site"/"index.html").read_text()
        assert re.search(r"<h2[^>]*>The course</h2>", index)

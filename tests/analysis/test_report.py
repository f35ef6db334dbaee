"""The page: what stands where, nothing from elsewhere, nothing injected, the same bytes twice, and how a browser shows it."""

import html
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser

import pytest
from helpers.synthetic_records import make, write

from analysis.build import build
from analysis.comparison import effects
from analysis.figures import svg
from analysis.records import load, repeats
from analysis.report import page as report
from analysis.report.page import Section
from mldiv.records import study_files
from mldiv.records.study_files import trial_folder

NLL = {"mutual learning": [0.50, 0.60, 0.55], "rbf": [0.45, 0.56, 0.50], "cosine": [0.52, 0.59, 0.58]}
TWO = {"a": [0.5, 0.6], "b": [0.4, 0.5]}
TITLES = [
    "Answer", "What else the records say", "Other scores", "Scores", "Calibration", "Learning curves", "Diversity over time",
    "Which terms act", "Uncertainty as a detector", "What failed or is missing", "Configuration", "Versions", "Cost",
]  # fmt: skip
TABLE = "Mean over seeds.\n\n| kernel | NLL |\n|:--|:--|\n| rbf | **0.5** ± 0.1 (3) |\n"
ANSWER = "**The data cannot tell.** rbf is best.\n"
NOTES = ["**The search** chose the defaults."]
EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)"> & "q" \'s\''


class Page(HTMLParser):
    """Tags with their attributes, ids, headings and text of a page; tags that are opened must be closed."""

    EMPTY = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.headings, self.words = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] == "h2" and data.strip():
            self.headings.append(data.strip())

    @property
    def ids(self):
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]

    def count(self, name, css):
        return sum(tag == name and css in (attributes.get("class") or "").split() for tag, attributes in self.tags)


def render(folder, **given):
    study = load.load(folder)
    found = repeats.gather(study)
    differences = effects.differences(found, study.baseline, study.arms) if study.baseline in study.arms else {}
    contrasts = effects.contrasts(found, study.header.contrasts)
    return report.render(study, predictions=repeats.predictions(found), effects=differences, contrasts=contrasts,
                         **{"tables": {"scores": [TABLE]}, "answer": ANSWER, "notes": NOTES} | given)  # fmt: skip


def checked(text):
    """Well-formed, and whole in itself."""
    page = Page(text)
    assert page.open == [] and max(Counter(page.ids).values()) == 1
    assert not re.search(r"https?://|\bsrc=|@import|url\((?!#)", text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base") and not any(
            name.startswith("on") for name in attributes
        )
        if "href" in attributes:
            assert attributes["href"].removeprefix("#") in page.ids and attributes["href"][0] == "#"
        if tag == "svg" and "plot" in attributes["class"]:
            assert attributes["role"] == "img" and attributes["aria-label"]
    return page


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study with everything: contrasts, a diverged trial, notes, chosen settings, importances, further sections."""
    folder = make(
        tmp_path_factory.mktemp("whole"), NLL, contrasts={"rbf less cosine": {"rbf": 1.0, "cosine": -1.0}},
        changes={"rbf": {"kernel": "rbf"}}, searched={"rbf": ["alpha"]}, chosen={"rbf": {"alpha": 0.123}},
        importance={"rbf": {"alpha": 0.75, "beta": 0.25}},
    )  # fmt: skip
    write(folder, "0202", 0.1, 0.9, 0, 2, status="diverged")
    record = study_files.read_trial(trial_folder(folder, "0202"))
    record.reason, record.notes = "the loss is not finite", ["the feature term died"]
    study_files.write_trial(trial_folder(folder, "0202"), record)
    return folder


def further():
    """What a page holds that does not come from the records."""
    with svg.style():
        figure = svg.canvas(100)
        figure.add_subplot().plot([0, 1])
        surface = svg.svg(figure, "surface", "a surface")
    extra = [Section("Response surface", surface, "Where the optimum lies."), Section("Response surface", "<p>again</p>")]
    return {"nulls": {"rbf": 1.25}, "signatures": ["**beta too high**, in 2 trials"], "extra": extra}


@pytest.fixture(scope="module")
def text(whole):
    return render(whole, **further())


def test_sections_stand_in_their_order(text):
    page = checked(text)
    further = ["Response surface", "Response surface", "Which searched settings mattered"]
    assert page.headings == TITLES[:9] + further + TITLES[9:]
    said = ["The data cannot tell", "Difference in NLL", "<strong>The search</strong>", "Difference in ECE", "Mean over seeds"]
    assert [text.index(words) for words in said] == sorted(text.index(words) for words in said)
    assert text.count("<h1>Which kernel?</h1>") == 1
    assert text.count("Which kernel?") == 2  # and in the page's title
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a" and attributes["href"] != "#top"]
    assert len(links) == 2 * len(page.headings)


def test_figures_have_captions_and_say_n(text):
    page = checked(text)
    assert page.count("svg", "plot") == 3 + 4 + 4 + 2 + 1 and page.count("table", "forest") == 3
    assert text.count("<figcaption>") == 4
    words = html.unescape("".join(page.words))
    for expected in (", n = 2", "n = 3 seeds unless a row says otherwise", "n = 2 to 3 seeds per arm", "200 test images",
                     "1.25 % if calibrated", "rbf less cosine"):  # fmt: skip
        assert expected in words


def test_what_failed_is_told(text):
    words = html.unescape("".join(checked(text).words))
    for expected in ("the loss is not finite", "the feature term died", "cosine: seed 3", "beta too high", "0.123*", "75 %",
                     "abc1234", "scientific", "loss is not finite"):  # fmt: skip
        assert expected in words


def test_the_same_study_gives_the_same_bytes(whole, text, tmp_path):
    shutil.copytree(whole, tmp_path / "moved")
    assert render(tmp_path / "moved", **further()) == text


def test_arms_keep_their_colours(text):
    legends = re.findall(r'<ul class="legend">.*?</ul>', text)
    assert len(legends) == 3 and len(set(legends)) == 1


def test_records_inject_nothing(tmp_path):
    folder = make(tmp_path, {"base": [0.5, 0.6], EVIL: [0.4, 0.5], "$x_1$": [0.4, 0.5]}, question=EVIL, data=EVIL,
                  environment={EVIL: EVIL}, changes={EVIL: {"kernel": EVIL}}, contrasts={EVIL: {EVIL: 1.0, "base": -1.0}},
                  importance={EVIL: {EVIL: 0.5}})  # fmt: skip
    write(folder, "0101", 0.1, 0.9, 0, 2, status="failed")
    record = study_files.read_trial(trial_folder(folder, "0101"))
    record.reason, record.notes, record.environment = EVIL, [EVIL], {EVIL: EVIL}
    study_files.write_trial(trial_folder(folder, "0101"), record)
    text = render(folder, tables={"scores": [f"{TABLE}| {EVIL} | 1 |\n"], EVIL: [EVIL]}, answer=f"{ANSWER}\n{EVIL}\n",
                  notes=[EVIL], numbers=[EVIL], signatures=[EVIL],
                  extra=[Section(EVIL, "<p></p>", EVIL)])  # fmt: skip
    assert "<script" not in text and "<img" not in text and text.count("&lt;script&gt;") > 15
    page = Page(text)
    assert page.open == [] and not any(tag in ("script", "img") or "onerror" in has for tag, has in page.tags)


def remove(folder, *names):
    for trial in (folder / "trials").iterdir():
        for name in names:
            (trial / name).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (["predictions.parquet"], ["No arm has predictions", "No risk-coverage curves"]),
        (["metrics.jsonl"], ["No finished repeat has lines per epoch"]),
        (["trial.json"], ["There is nothing to compare", "No arm has predictions"]),
    ],
)
def test_what_is_missing_is_said(tmp_path, lost, said):
    folder = make(tmp_path, TWO, images=60)
    remove(folder, *lost)
    text = render(folder)
    page = checked(text)
    assert page.headings == [title for title in TITLES if title != "Other scores" or "There is nothing" not in said[0]]
    for sentence in said:
        assert sentence in text
    assert page.count("p", "missing") >= len(said)


def many(count):
    return {f"arm {place} with a rather long name, width x {place}": [0.5, 0.4] for place in range(count)}


@pytest.mark.parametrize(
    ("arms", "changed"),
    [
        pytest.param({"only": [0.5]}, {}, id="one arm"),
        pytest.param(TWO, {"baseline": None}, id="no baseline"),
        pytest.param(TWO, {"members": {"b": "peers"}}, id="single networks"),
        pytest.param(many(5), {}, id="long names"),
        pytest.param(many(20), {}, id="many arms", marks=pytest.mark.slow),
        pytest.param({"a": [0.5], "b": [0.4]}, {"searched": {"a": ["lr"]}, "samples": 0}, id="one seed, no search"),
    ],
)
def test_studies_of_any_shape(tmp_path, arms, changed):
    page = checked(render(make(tmp_path, arms, images=60, **changed)))
    compared = len(arms) > 1 and changed.get("baseline", "a")
    assert page.headings == [title for title in TITLES if title != "Other scores" or compared]


def test_damaged_files_are_named(tmp_path):
    folder = make(tmp_path, TWO, images=60)
    (trial_folder(folder, "0100") / "metrics.jsonl").write_text("{not")
    (trial_folder(folder, "0101") / "predictions.parquet").write_bytes(b"PAR1")
    text = render(folder)
    assert "trials/0100/metrics.jsonl, line 1: not valid JSON" in text
    assert str(tmp_path) not in text
    assert "trials/0101/predictions.parquet cannot be read" in text


def test_a_plain_document():
    text = report.document("Several studies", f"# Several studies\n\nfirst\n\n# Tables\n\n{TABLE.partition('seeds.')[2]}")
    page = checked(text)
    assert page.headings == ["Tables"] and "first" in text and page.count("div", "box") == 1


BROWSER = shutil.which("chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr", "--v=0", "--dump-dom",
)  # fmt: skip
SIZES = ((390, 844), (768, 1024), (1280, 800))
#: A window is never as narrow as a phone; a frame is.
WRAPPER = """<!DOCTYPE html><title></title>{frames}<script>
addEventListener("load", () => {{
  document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, width = frame.contentWindow.innerWidth, all = [...page.querySelectorAll("body *")];
    const top = page.querySelector(".forest tfoot")?.getBoundingClientRect().bottom;
    page.querySelectorAll("details").forEach(part => part.open = true);
    const outside = all.filter(element => !element.closest(".box, svg") && element.getBoundingClientRect().right > width + 1);
    const letters = [...page.querySelectorAll("svg.plot text")].map(text => {{
      const svg = text.closest("svg");
      return parseFloat(getComputedStyle(text).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    }});
    return {{
      cut: [...page.querySelectorAll(".box")].filter(box => box.scrollWidth > box.clientWidth + 1).map(box => box.innerText),
      width, top, scroll: page.documentElement.scrollWidth, outside: outside.map(element => element.outerHTML.slice(0, 80)),
      broken: [...page.images].filter(image => !image.naturalWidth).length, figures: page.querySelectorAll("svg.plot").length,
      letters: Math.min(...letters), ink: getComputedStyle(page.querySelector("svg.plot text")).fill,
    }};
  }}));
}});</script>"""


def browse(text, folder, dark=False):
    """What a browser finds in the page at a phone's, a tablet's and a desk's width, and what its console says."""
    frames = "".join(
        f'<iframe width="{width}" height="{height}" style="border:0" srcdoc="{html.escape(text)}"></iframe>'
        for width, height in SIZES
    )
    (folder / "wrapper.html").write_text(WRAPPER.format(frames=frames))
    done = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
         f"file://{folder / 'wrapper.html'}"], capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r"<title>(\[.*?\])</title>", done.stdout)
    assert found, done.stderr
    return json.loads(html.unescape(found[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def built(whole, tmp_path_factory):
    """The study's page with all its tables."""
    out = tmp_path_factory.mktemp("built")
    build(whole, out, formats=("html",))
    return (out / "report.html").read_text()


needs_browser = pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")


@needs_browser
def test_a_browser_shows_it_at_any_width(built, tmp_path):
    """Nothing is cut, all folds open; on a desk the answer, the verdicts and their picture fill the first screen."""
    found, console = browse(built, tmp_path)
    assert console == [] and found[-1]["top"] < SIZES[-1][1]
    for (width, _), measured in zip(SIZES, found, strict=True):
        assert measured["width"] == measured["scroll"] == width and measured["outside"] == measured["cut"] == []
        assert measured["broken"] == 0
        assert measured["figures"] == 13 and measured["letters"] >= 9.5


@needs_browser
def test_figures_follow_the_dark_theme(built, tmp_path):
    inks = [browse(built, tmp_path, dark)[0][0]["ink"] for dark in (False, True)]
    assert inks == ["rgb(28, 30, 33)", "rgb(230, 232, 235)"]


@needs_browser
def test_the_browsers_check_sees_what_it_is_for(built, tmp_path):
    spoilt = built.replace(
        "</main>",
        '<p style="width: 500px">wide</p><div class="box"><table><tr><td><p style="width: 900px"></table></div><img src="http://localhost:9/none.png"></main>',
    )
    (phone, _, desk), console = browse(spoilt, tmp_path)
    assert phone["scroll"] > 390 and len(phone["outside"]) == 1 and phone["broken"] == 1 and len(phone["cut"]) == 1
    assert desk["scroll"] == 1280 and desk["outside"] == [] and console

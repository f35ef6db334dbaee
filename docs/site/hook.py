"""Make the site of the checkout's pages as they are: README is its first page, and links work here and in the checkout."""

import os.path
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")
TOGETHER = re.compile(r"\[[-+.\d]+, [-+.\d]+\]|\d %")
FORMULA = re.compile(r"^```math\n(.*?)```$", re.MULTILINE | re.DOTALL)

#: Pages outside docs/, and where they are on the site; what they link to beside is a file there of the same path.
PAGES = {
    "README.md": "index.md",
    "RESULTS.md": "measured.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}


def place(path: str) -> str:
    """Return where a file of the checkout is on the site."""
    return path.removeprefix("docs/") if path.startswith("docs/") else PAGES.get(path, path)


def targets(path: str, text: str) -> set[str]:
    """Return the files of the checkout that a page of it links to."""
    found = {posixpath.normpath(posixpath.join(posixpath.dirname(path), link)) for link, _ in LINK.findall(text)}
    return {name for name in found if not name.startswith("..") and (ROOT / name).is_file()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside docs/, and every file that a page links to."""
    waiting = [*PAGES, *(os.path.relpath(path, ROOT) for path in Path(config.docs_dir).glob("*.md"))]
    done: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in done:
            continue
        done.add(path)
        if files.get_file_from_path(place(path)) is None:
            files.append(File.generated(config, place(path), abs_src_path=str(ROOT / path)))
        if path.endswith(".md"):
            waiting += targets(path, (ROOT / path).read_text(encoding="utf-8"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the checkout into those of the site, those to folders into words, and formulas into MathML."""
    path = os.path.relpath(page.file.abs_src_path, ROOT)

    def linked(match: re.Match[str]) -> str:
        name = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))
        if "://" in match[1] or not (ROOT / name).exists():
            return match[0]
        here = posixpath.dirname(page.file.src_uri)
        return f"]({posixpath.relpath(place(name), here or '.')}{match[2] or ''})"

    words = re.sub(
        r"(?<!!)\[([^][]+)\]\(([^)\s#]+)\)", lambda match: match[1] if _folder(path, match[2]) else match[0], markdown
    )
    return FORMULA.sub(lambda match: f"<div>{convert(match[1].strip(), display='block')}</div>", LINK.sub(linked, words))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Keep both ends of an interval, and a number and its percent sign, on one line, which narrow columns would break."""
    return TOGETHER.sub(lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), html)


def _folder(path: str, link: str) -> bool:
    return "://" not in link and (ROOT / posixpath.dirname(path) / link).is_dir()

"""What the site does beyond Markdown: links that lead out of docs/ stay links.

On GitHub a page links to `../README.md` or `../configs/quickstart.py`. The site has the home page
for the first, and for each other file a page that shows it.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")  # of this repository, without its anchor
LANGUAGES = {".py": "python", ".sh": "bash", ".sbatch": "bash", ".yaml": "yaml", ".yml": "yaml"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every file outside docs/ that a page links to."""
    docs = Path(config.docs_dir)
    named = set()
    for file in files.documentation_pages():
        for target in _outside(file.src_uri, (docs / file.src_uri).read_text()):
            named.add(target)
    for target in sorted(named):
        page = File.generated(config, f"source/{target}.md", content=_show(target))
        page.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Leads the links to these files to their pages, and those to the README home."""
    here = posixpath.dirname(page.file.src_uri)

    def lead(match: re.Match[str]) -> str:
        target = _target(page.file.src_uri, match[2])
        if target is None:
            return match[0]
        on_site = "index.md" if target == "README.md" else f"source/{target}.md"
        return f"{match[1]}{posixpath.relpath(on_site, here or '.')}{match[3]}"

    return LINK.sub(lead, markdown)


def _outside(page: str, markdown: str) -> Iterator[str]:
    """The files outside docs/ that a page links to, but for the README."""
    for match in LINK.finditer(markdown):
        target = _target(page, match[2])
        if target is not None and target != "README.md":
            yield target


def _target(page: str, link: str) -> str | None:
    """The path of a link's file from the root, where it lies outside docs/."""
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if PurePosixPath(target).parts[0] == "docs" else target


def _show(target: str) -> str:
    """A page that shows a file, or lists a folder; it fails for one that is not there."""
    path = ROOT / target
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {target}\n\n"
    if path.is_dir():
        return head + "".join(f"- `{each.name}`\n" for each in sorted(path.iterdir()))
    if path.suffix == ".md":
        return head + path.read_text()
    return f"{head}`````{LANGUAGES.get(path.suffix, 'text')}\n{path.read_text()}\n`````\n"

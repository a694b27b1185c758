"""The Chinese edition: what Sphinx needs besides the catalogues, and the command that keeps it up to date.

    python docs/translations.py                   # counts what is stale in the READMEs, compares their code
    python docs/translations.py update [PAGE …]   # brings the catalogues up to date; begins one for each PAGE
    python docs/translations.py sign FILE …       # notes that these READMEs have been brought up to date
    python docs/translations.py same-code A B     # compares the code on all pages of two built editions

docs/locale/README.md has the rules, and the words to use.
"""

from __future__ import annotations

import hashlib
import html
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

TOP = Path(__file__).parents[1]
LANGUAGE = "zh_CN"
CATALOGUES = TOP / "docs" / "locale" / LANGUAGE / "LC_MESSAGES"
READMES = {"README.md": "README.zh-CN.md", "tutorials/README.md": "tutorials/README.zh-CN.md"}
LIMIT = 1 / 3


def too_many(stale: int, total: int) -> bool:
    """Return whether so much of a page is stale that its readers are better off with the English one."""
    return stale > LIMIT * total


# The READMEs: above each section of a Chinese page stand the fingerprints of the English passages it says.


class Section(NamedTuple):
    """A heading, the text from it to the next one, and the fingerprints that are noted above it."""

    heading: str
    text: str
    noted: list[str]

    @property
    def code(self) -> list[str]:
        """The blocks of code."""
        return re.findall(CODE, self.text, re.MULTILINE | re.DOTALL)

    @property
    def fingerprints(self) -> list[str]:
        """The beginning of each passage's SHA-256, in which line breaks and spaces count alike."""
        prose = re.sub(CODE, "", self.text, flags=re.MULTILINE | re.DOTALL)
        passages = (" ".join(passage.split()) for passage in prose.split("\n\n"))
        return [hashlib.sha256(passage.encode()).hexdigest()[:8] for passage in passages if passage]


CODE = r"^```\w*\n.*?^```$"


def sections(markdown: str) -> list[Section]:
    """Cut a page at its headings."""
    found: list[tuple[str, list[str], list[str]]] = []
    in_code, noted = False, []
    for line in markdown.splitlines():
        if note := re.fullmatch(r"<!-- en: (.*) -->", line):
            noted = note[1].split()
            continue
        in_code ^= line.startswith("```")
        if re.match("##? ", line) and not in_code:
            found.append((line, [line], noted))
            noted = []
        elif found:
            found[-1][1].append(line)
    return [Section(heading, "\n".join(lines), noted) for heading, lines, noted in found]


def stale_passages(english: list[Section], chinese: list[Section]) -> dict[str, int]:
    """Count, by English heading, the passages that no Chinese section says in their present words."""
    noted = {fingerprint for section in chinese for fingerprint in section.noted}
    counts = {section.heading: len(set(section.fingerprints) - noted) for section in english}
    return {heading: count for heading, count in counts.items() if count}


def signed(english: list[Section], chinese: str) -> str:
    """Note above each Chinese section the fingerprints of the English one at its place.

    Raises
    ------
    ValueError
        The pages differ in their number of sections.
    """
    found = sections(chinese)
    if len(found) != len(english):
        raise ValueError(f"the English page has {len(english)} sections and the Chinese one {len(found)}")
    return "\n".join(
        f"<!-- en: {' '.join(original.fingerprints)} -->\n{section.text.rstrip()}\n"
        for original, section in zip(english, found, strict=True)
    )


def check_readmes() -> list[str]:
    """Print how many passages are stale, and where; return what must be mended."""
    faults = []
    for original, translation in READMES.items():
        english, chinese = (
            sections((TOP / name).read_text(encoding="utf-8")) for name in (original, translation)
        )
        stale = stale_passages(english, chinese)
        count, total = sum(stale.values()), sum(len(section.fingerprints) for section in english)
        print(f"{translation}: {count} of {total} passages are stale")
        print(*(f"    {count} below {heading!r}\n" for heading, count in stale.items()), sep="", end="")
        if too_many(count, total):
            faults.append(f"{translation}: translate what has changed in {original}, then `sign` it")
        blocks = [[code for section in page for code in section.code] for page in (english, chinese)]
        if blocks[0] != blocks[1]:
            faults.append(f"{translation}: its blocks of code differ from those of {original}; copy them")
    return faults


# The site: Sphinx puts in the messages of the catalogues; here they are counted.


def update(pages: list[str]) -> None:
    """Bring the catalogues up to date with the English pages; begin one for each of `pages`."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["-D", "plot_gallery=0", "-D", "language=en"]
        sphinx = [sys.executable, "-m", "sphinx", "-q", "-b", "gettext", *options]
        subprocess.run([*sphinx, str(TOP / "docs"), folder], check=True)
        for template in Path(folder).rglob("*.pot"):
            page = template.relative_to(folder).with_suffix("")
            if str(page) not in pages and not (CATALOGUES / page).with_suffix(".po").is_file():
                template.unlink()
        merge = ["update", "-p", folder, "-d", str(TOP / "docs" / "locale"), "-l", LANGUAGE, "--no-obsolete"]
        subprocess.run([sys.executable, "-m", "sphinx_intl", *merge], check=True)


def translated(page: str) -> dict[str, str]:
    """Return the messages of a page with their translations, without the fuzzy and the empty ones."""
    from babel.messages.pofile import read_po

    path = (CATALOGUES / page).with_suffix(".po")
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as file:
        messages = read_po(file)
    return {
        str(message.id): str(message.string)
        for message in messages
        if message.id and message.string and not message.fuzzy
    }


def count(app: Any, doctree: Any) -> None:
    """Note how many passages of a page there are, and are stale; say so on the page."""
    from docutils import nodes
    from sphinx.util.nodes import extract_messages

    page = app.env.docname
    if app.config.language != LANGUAGE or page.startswith("names/"):
        return
    known = translated(page)
    done = {*known, *known.values()}  # Sphinx marks neither pictures nor what is the same in Chinese
    total = stale = 0
    for node, message in extract_messages(doctree):
        if not re.search(r"[^\W\d_]", message):
            continue  # a number in a table
        total += 1
        stale += not node.get("translated") and message not in done
    if known:
        passages(app.env)[page] = stale, total
    if stale:
        text = "本页尚未译成中文，以英文原文显示。"
        if known:
            text = f"本页 {total} 段文字中有 {stale} 段尚未译成中文，或在翻译之后又有改动，以英文原文显示。"
        title = next(iter(doctree.findall(nodes.title)), None)
        if title is not None:
            title.parent.insert(title.parent.index(title) + 1, nodes.note("", nodes.paragraph("", text)))


def passages(env: Any) -> dict[str, tuple[int, int]]:
    """Return the numbers of stale and of all passages of the pages that have a catalogue."""
    if not hasattr(env, "translated_passages"):
        env.translated_passages = {}
    return env.translated_passages


def report(app: Any, exception: Exception | None) -> None:
    """Print the count of each page; warn of a page with too many stale passages."""
    from sphinx.util.logging import getLogger

    if exception or app.config.language != LANGUAGE:
        return
    for page, (stale, total) in sorted(passages(app.env).items()):
        print(f"{page}: {stale} of {total} passages are stale")
        if too_many(stale, total):
            getLogger(__name__).warning(
                f"{page}: {stale} of {total} passages are stale, more than a third; translate them, "
                f"or remove {page}.po so that the page is in English (docs/locale/README.md)"
            )


def blocks_of_code(page: str) -> list[str]:
    """Return the text of the blocks of code, and of their output, on a page in HTML."""
    # These links say [docs] in one edition, [文档] in the other.
    page = re.sub(r'<a class="viewcode-back".*?</a>', "", page)
    blocks = re.findall(r"<pre\b[^>]*>(.*?)</pre>", page, re.DOTALL)
    return [html.unescape(re.sub("<[^>]*>", "", block)) for block in blocks]


def differing_code(first: Path, second: Path) -> list[str]:
    """Compare the code on all pages of two editions; return the pages that differ or are missing."""
    pages = {path.relative_to(first) for path in first.rglob("*.html")}
    pages = {page for page in pages if first / page.parts[0] != second}
    pages |= {path.relative_to(second) for path in second.rglob("*.html")}
    differ = []
    for page in sorted(pages):
        if not ((first / page).is_file() and (second / page).is_file()):
            differ.append(f"{page}: in one edition only")
        else:
            code = [blocks_of_code((site / page).read_text(encoding="utf-8")) for site in (first, second)]
            if code[0] != code[1]:
                differ.append(f"{page}: its code differs")
    return differ


def setup(app: Any) -> dict[str, Any]:
    """Register what is done while the Chinese edition is built."""
    if app.config.language == LANGUAGE:
        import chapter_pages

        chapter_pages.LABELS.update(drawing="绘图的代码，{} 行", hint="提示 {}", check="检查你的答案：")
        chapter_pages.hints_in_language = translated
        with suppress(ImportError):  # without it the search finds English words only
            import jieba

            jieba.setLogLevel("WARNING")
    app.connect("doctree-read", count)
    app.connect("build-finished", report)
    return {"parallel_read_safe": False}


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status."""
    match arguments:
        case []:
            faults = check_readmes()
        case ["update", *pages]:
            update(pages)
            faults = []
        case ["sign", *files] if files and set(files) <= set(READMES.values()):
            originals = {translation: original for original, translation in READMES.items()}
            for file in files:
                english = sections((TOP / originals[file]).read_text(encoding="utf-8"))
                (TOP / file).write_text(
                    signed(english, (TOP / file).read_text(encoding="utf-8")), encoding="utf-8"
                )
            faults = check_readmes()
        case ["same-code", first, second]:
            faults = differing_code(Path(first), Path(second))
        case _:
            faults = [f"{' '.join(arguments)}: not a command\n{__doc__}"]
    print(*faults, sep="\n", file=sys.stderr, end="\n" if faults else "")
    return 2 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

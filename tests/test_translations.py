"""The Chinese edition: its code is the English one's, its markup is whole, and what is stale is counted.

The gate builds it, with warnings as errors, and compares the code on its pages.
"""

from __future__ import annotations

import io
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import translations  # noqa: E402

CATALOGUES = sorted(translations.CATALOGUES.rglob("*.po"))
MARKUP = re.compile(r"``.+?``|:math:`[^`]*`|(?<![`:\w])`[^`<]+`(?!`)|<[\w/.#-]+>|\]\([^)]*\)")


def chinese(path: Path) -> dict[str, str]:
    """Return the finished translations of a catalogue."""
    page = path.relative_to(translations.CATALOGUES).with_suffix("")
    return translations.translated(str(page))


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_translations_have_the_code_the_formulas_and_the_links(path: Path) -> None:
    messages = chinese(path)
    assert messages
    for english, translation in messages.items():
        english = english.replace("](docs/", "](")  # taken from README.md: linked as from the page
        assert Counter(MARKUP.findall(english)) == Counter(MARKUP.findall(translation)), translation


def test_readmes_have_the_same_code_and_are_not_too_stale() -> None:
    assert translations.check_readmes() == []


ENGLISH = "# a\n\none\n\n```sh\n# no heading\n```\n\n## b\n\ntwo\n\nthree\n"


def test_a_passage_is_stale_when_its_words_change_and_not_its_lines() -> None:
    chinese = ENGLISH.replace("one", "一").replace("two", "二")
    found = translations.sections(translations.signed(translations.sections(ENGLISH), chinese))
    assert [section.heading for section in found] == ["# a", "## b"]
    assert found[0].code == ["```sh\n# no heading\n```"]

    def stale(english: str) -> dict[str, int]:
        return translations.stale_passages(translations.sections(english), found)

    assert stale(ENGLISH) == {}
    assert stale(ENGLISH.replace("two\n", "\ntwo\n")) == {}
    assert stale(ENGLISH.replace("two", "four")) == {"## b": 1}
    assert stale(ENGLISH.replace("two", "four\n\nfive") + "\n## c\n") == {"## b": 2, "## c": 1}


def test_pages_with_other_sections_are_not_signed() -> None:
    with pytest.raises(ValueError, match="2 sections and the Chinese one 1"):
        translations.signed(translations.sections(ENGLISH), "# 一\n")


def test_code_that_differs_between_two_editions_is_found(tmp_path: Path) -> None:
    english, other = tmp_path, tmp_path / "zh_CN"
    other.mkdir()
    for name, first, second in (
        ("same", "<p>one</p><pre><span>x</span> &lt; 1</pre>", "<p>一</p><pre>x &lt; 1</pre>"),
        ("source", *(f'<pre>x<a class="viewcode-back">{word}</a></pre>' for word in ("[docs]", "[文档]"))),
        ("other", "<pre>x = 1</pre>", "<pre>x = 2</pre>"),
        ("missing", "<pre>x</pre>", None),
    ):
        (english / f"{name}.html").write_text(first, encoding="utf-8")
        if second is not None:
            (other / f"{name}.html").write_text(second, encoding="utf-8")
    differing = translations.differing_code(english, other)
    assert differing == ["missing.html: in one edition only", "other.html: its code differs"]


def test_a_third_may_be_stale() -> None:
    assert not translations.too_many(3, 9)
    assert translations.too_many(4, 9)


def test_a_page_shows_what_is_stale_and_fails_above_a_third(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    application = pytest.importorskip("sphinx.application", reason="needs the extra docs, as the gate has")
    from sphinx.util.docutils import docutils_namespace

    catalogues = tmp_path / "locale" / "zh_CN" / "LC_MESSAGES"
    catalogues.mkdir(parents=True)
    monkeypatch.setattr(translations, "CATALOGUES", catalogues)
    (tmp_path / "index.rst").write_text("A\n=\none ``x``\n\ntwo\n\nthree\n\n.. toctree::\n\n   b\n   c\n")
    (tmp_path / "b.rst").write_text("B\n=\none\n\ntwo\n")
    (tmp_path / "c.rst").write_text("C\n=\none\n")
    header = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'
    for page, messages in {
        "index": {"A": "甲", "one ``x``": "一 ``x``", "three": "三"},
        "b": {"one": "一"},
    }.items():
        body = "\n".join(f'msgid "{english}"\nmsgstr "{said}"\n' for english, said in messages.items())
        fuzzy = '\n#, fuzzy\nmsgid "two"\nmsgstr "贰"\n'
        (catalogues / f"{page}.po").write_text(header + body + fuzzy, encoding="utf-8")
    options = {"language": "zh_CN", "extensions": ["translations"], "locale_dirs": ["locale"]}
    warnings = io.StringIO()
    site = tmp_path / "site"
    with docutils_namespace():
        application.Sphinx(
            tmp_path, None, site, site / ".doctrees", "html", options, status=None, warning=warnings
        ).build()
    assert "index: 1 of 4 passages are stale\n" in capsys.readouterr().out
    assert "b: 2 of 3 passages are stale, more than a third" in warnings.getvalue()
    assert len(warnings.getvalue().splitlines()) == 1
    page = (site / "index.html").read_text(encoding="utf-8")
    assert "<p>三</p>" in page
    assert "<p>two</p>" in page
    assert "贰" not in page
    assert "4 段文字中有 1 段" in page
    assert "本页尚未译成中文" in (site / "c.html").read_text(encoding="utf-8")

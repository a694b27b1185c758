"""A file is written whole or not at all, and nothing else is changed."""

import os
import stat
from pathlib import Path

import pytest

from tinyunet.data.atomic_write import make_folder, replacing, write_text


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    return path


def test_a_new_file_takes_the_place_of_the_old_one(path):
    with replacing(path, durable=True) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file(path, error):
    def write():
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file"]


def test_what_a_killed_process_left_is_replaced(path):
    path.with_name("file.part").write_text("half of something longer")
    write_text(path, "größer")
    assert path.read_text(encoding="utf-8") == "größer"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="Windows lets only some users make links")
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_not_written_through(path, tmp_path, exists):
    """Someone who may write into the folder must not choose which file of ours is overwritten."""
    elsewhere = tmp_path.with_name(tmp_path.name + "-elsewhere")
    if exists:
        elsewhere.write_text("thesis")
    path.with_name("file.part").symlink_to(elsewhere)
    write_text(path, "new")
    assert path.read_text() == "new"
    assert not path.is_symlink()
    assert elsewhere.read_text() == "thesis" if exists else not elsewhere.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows lets only some users make links")
def test_a_link_that_appears_at_the_last_moment(path, tmp_path, monkeypatch):
    """Between the removal of the old part and the opening of the new one."""
    thesis = tmp_path / "thesis"
    thesis.write_text("thesis")
    part = path.with_name("file.part")
    monkeypatch.setattr("pathlib.Path.unlink", lambda self: part.symlink_to(thesis))
    with pytest.raises(FileExistsError):
        write_text(path, "new")
    assert (path.read_text(), thesis.read_text()) == ("old", "thesis")


def test_a_folder_in_the_place_of_the_part(path):
    path.with_name("file.part").mkdir()
    with pytest.raises(OSError, match="part"):
        write_text(path, "new")
    assert path.read_text() == "old"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_permissions_are_those_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_names_that_are_no_text(path):
    write_text(path, "a\udcffb")
    assert path.read_text() == "a?b"


@pytest.mark.skipif(os.name == "nt", reason="Windows takes no paths of this length")
def test_a_folder_below_many_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    deep = Path("/".join("a" * 1500))
    make_folder(deep)
    make_folder(deep)
    assert deep.is_dir()
    for folder in [deep, *deep.parents][:-1]:  # shutil.rmtree recurses, too
        folder.rmdir()


def test_a_folder_in_the_place_of_a_file(path):
    with pytest.raises(OSError, match="file"):
        make_folder(path / "below")

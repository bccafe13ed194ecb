from __future__ import annotations

from evidence import gallery
from evidence.gallery import DOCS


def test_the_page_is_what_the_command_writes() -> None:
    assert (DOCS / "gallery.md").read_text(encoding="utf-8") == gallery.page()


def test_every_picture_is_there_and_no_other() -> None:
    assert {path.name for path in (DOCS / "gallery").iterdir()} == {
        picture.name for picture in gallery.PICTURES
    }

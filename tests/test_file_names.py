"""Names of files in text files, which are UTF-8 whatever the locale's encoding is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metabin_plugin import files
from metabin_plugin.files import name_in_text, name_on_disk

# Whatever a file may be called, in UTF-8.
names = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1)


@pytest.fixture(params=["ascii", "utf-8"])
def encoding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Encoding in which the operating system gives and takes names."""
    name: str = request.param
    monkeypatch.setattr(files.os, "fsencode", lambda text: text.encode(name, "surrogateescape"))
    monkeypatch.setattr(files.os, "fsdecode", lambda data: data.decode(name, "surrogateescape"))
    return name


def test_a_name_is_the_same_file_in_any_locale(encoding: str) -> None:
    @given(names)
    def check(name: str) -> None:
        given_by_system = name.encode().decode(encoding, "surrogateescape")
        assert name_in_text(given_by_system) == name
        assert name_on_disk(name) == given_by_system
        assert name_on_disk(given_by_system) == given_by_system

    check()


@pytest.mark.parametrize("data", [b"J\xf6rg", b"\xff", b"a\xc3"])
def test_a_name_that_is_not_utf_8_is_in_no_text(data: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        name_in_text(data.decode("ascii", "surrogateescape"))

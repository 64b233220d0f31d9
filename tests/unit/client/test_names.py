"""Names of files are labels."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impasto.names import MAX_NAME, clean_name
from impasto.pictures import fill
from impasto.v1 import style_transfer_pb2 as pb
from tests.conftest import JPEG


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Screenshot 2026-01-01 at 9.41.00\u202fAM.png", "Screenshot 2026-01-01 at 9.41.00 AM.png"),
        ("obrazovka\u00a01.png", "obrazovka 1.png"),
        ("family \U0001f468\u200d\U0001f469.png", "family \U0001f468\U0001f469.png"),
        ("tab\there.png", "tab here.png"),
        ("line\nbreak.png", "line break.png"),
        ("right\u202eto left.png", "rightto left.png"),
        ("\x1b[31mred.png", "\ufffd[31mred.png"),
        (os.fsdecode(b"caf\xe9.png"), "caf\ufffd.png"),
        ("plain.png", "plain.png"),
        ("", ""),
    ],
)
def test_names_as_people_have_them_become_labels(name: str, label: str) -> None:
    assert clean_name(name) == label


def test_a_long_name_keeps_its_ending() -> None:
    cleaned = clean_name("a" * 5000 + ".jpeg")
    assert len(cleaned) == MAX_NAME
    assert cleaned.endswith("….jpeg")


@given(st.text(st.characters(), max_size=600))
def test_any_name_can_be_sent_shown_and_logged(name: str) -> None:
    """Whatever it holds, surrogates too; and cleaning twice changes nothing."""
    message = pb.Image()
    fill(message, pb_file(name), "content")
    assert message.name == clean_name(name) == clean_name(message.name)
    assert message.name.isprintable()
    assert len(message.name) <= MAX_NAME


def pb_file(name: str):
    from impasto import NamedFile

    return NamedFile(JPEG + b"data", name)

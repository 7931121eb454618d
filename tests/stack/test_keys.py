"""The secrets of a checkout: made once, and completed when a newer checkout needs one more."""

import json

import pytest

from stack import keys
from stack.console import StackError


def test_made_once(tmp_path):
    made = keys.load(tmp_path)
    assert keys.load(tmp_path) == made
    assert (tmp_path / "keys.json").stat().st_mode & 0o077 == 0


def test_an_older_file_gets_what_it_lacks_and_keeps_the_rest(tmp_path):
    made = keys.load(tmp_path)
    older = json.loads((tmp_path / "keys.json").read_text())
    del older["message_keys"]
    (tmp_path / "keys.json").write_text(json.dumps(older))
    completed = keys.load(tmp_path)
    assert completed.message_keys.startswith("1:") and completed.message_keys != made.message_keys
    assert completed.database_password == made.database_password
    assert keys.load(tmp_path) == completed


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"jwt_secret": "x"}', '{"unknown": 1}'])
def test_a_damaged_file_is_not_replaced(tmp_path, text):
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(StackError, match="damaged"):
        keys.load(tmp_path)
    assert (tmp_path / "keys.json").read_text() == text

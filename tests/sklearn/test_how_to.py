"""The page on scikit-learn keeps its word: its Python runs."""

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "how_to" / "scikit_learn.md"


def test_the_page_runs():
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert not failed
    assert tried > 10

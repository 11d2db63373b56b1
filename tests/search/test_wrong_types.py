"""What a program hands over by mistake is refused by a sentence of ours.

In a process of its own: the tests' own checks of types would refuse it first.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

WRONG = {
    "check_page(2.5, 0, 100)": "k is 2.5; right is a whole number",
    "check_page('10', 0, 100)": "k is '10'; right is a whole number",
    "check_page(True, 0, 100)": "k is True; right is a whole number",
    "check_page(10, 0.0, 100)": "offset is 0.0; right is a whole number",
    "Term(text='x', weight='0.5')": "the weight of a term is '0.5'; right is a number",
    "Term(text='x', weight=True)": "the weight of a term is True; right is a number",
    "Term(text=['x'])": "the text to search for is ['x'], and no words",
    "check_terms('red car')": "the terms are 'red car'; right is a list",
    "check_terms({'red car': 1.0})": "the terms are {'red car': 1.0}; right is a list",
    "query_vectors(['a', 'b'], 4)": "the vectors to search for are no array of numbers",
}
RIGHT = ["check_page(np.int64(10), np.int32(0), 100)", "Term(text='x', weight=np.float32(2))"]
PROGRAM = """
import json, sys
import numpy as np
from coca.core.errors import SearchError
from coca.search.ranking import check_page
from coca.search.terms import Term, check_terms, query_vectors
told = {}
for call in json.loads(sys.argv[1]):
    try:
        eval(call)
        told[call] = ""
    except SearchError as error:
        told[call] = str(error)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told() -> dict[str, str]:
    calls: list[str] = [*WRONG, *RIGHT]
    run: Any = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(calls)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(run.stdout)


@pytest.mark.parametrize("call", WRONG)
def test_a_value_of_the_wrong_type_is_told_by_one_sentence(told: dict[str, str], call: str) -> None:
    assert told[call].startswith(WRONG[call])


@pytest.mark.parametrize("call", RIGHT)
def test_numbers_of_numpy_are_numbers(told: dict[str, str], call: str) -> None:
    assert told[call] == ""

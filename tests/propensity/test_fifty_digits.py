"""The file of the oracles' answers is what the oracles say, and has no question that no test asks."""

import json

import mpmath
import pytest

from tests.propensity.fifty_digits import FILE, fifty_digits, name_of, questions

QUESTIONS = {name_of(*question): question for question in questions()}
QUICK = "normal_log_prob([0.0, 8.0, 20.0], [1.0, 1.0, 0.5], 2)"


def test_every_question_has_its_answer():
    assert list(json.loads(FILE.read_text())) == list(QUESTIONS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == QUICK else [pytest.mark.slow]) for name in QUESTIONS]
)
def test_the_oracles_say_so(name):
    oracle, arguments = QUESTIONS[name]
    with mpmath.workdps(50):
        assert mpmath.almosteq(oracle(*arguments), fifty_digits(oracle, *arguments), rel_eps=mpmath.mpf(10) ** -30)

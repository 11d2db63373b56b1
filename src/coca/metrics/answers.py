"""Answer metrics: VQA accuracy and normalization, and the language prior of questions.

VQA accuracy and its normalisation are those of the official `vqaEval.py` (Antol et al.,
2015, arXiv 1505.00468; vqa-eval of GT-Vision-Lab/VQA), including its bugs, since published scores
contain them. Dimensions: N questions or statements.

Many questions suggest their answer ("how many chairs": two). An accuracy is meaningful only when
compared with this baseline.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

# VQA accuracy, exact match and consistency of answers and true/false judgements.


AGREEING = 3
"""Number of agreeing annotators for an accuracy of 1."""

_ARTICLES = frozenset(("a", "an", "the"))

_SMALL = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(number) for number, word in enumerate(_SMALL.split())} | {"none": "0"}

# Each is also recognized with one of its apostrophes missing.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're
    you've
"""

_SPELLED = {
    whole[:index] + whole[index + 1 :]: whole
    for whole in _CONTRACTIONS.split()
    for index, letter in enumerate(whole)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the official table has this one the wrong way round

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

_GROUPED_DIGITS = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_FULL_STOPS = 32
"""Largest number removed: the official code passes a flag of this value as `count`."""


def normalize_answer(answer: str) -> str:
    """Normalize an answer: lower case, no articles, digits for small numbers.

    >>> normalize_answer("The two dogs.")
    '2 dogs'
    """
    text = _without_punctuation(_on_one_line(answer)).lower()
    words = [_NUMBERS.get(word, word) for word in text.split()]
    return " ".join(_SPELLED.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(
    predicted: Sequence[str], answers: Sequence[Sequence[str]]
) -> Float[ndarray, " N"]:
    """Compute the official VQA accuracy of each predicted answer, 0 to 1.

    The score is min(1, matching other annotators / 3), averaged over leaving out each of the ten
    annotators in turn. As in the official code, answers are normalised only if annotators differ.
    If all gave the same answer, the prediction must equal it exactly.

    For questions with a single annotator use `exact_match`: without other annotators, this score
    is 0.

    Raises:
        ValueError: There is no question, the lengths differ, or a question has no answer.
    """
    _check(predicted, answers)
    return np.array([_agreement(one, given) for one, given in zip(predicted, answers, strict=True)])


def exact_match(predicted: Sequence[str], answers: Sequence[Sequence[str]]) -> Bool[ndarray, " N"]:
    """Check whether each prediction equals one of the answers, both normalised.

    Raises:
        ValueError: As `vqa_accuracy`.
    """
    _check(predicted, answers)
    return np.array(
        [
            normalize_answer(one) in {normalize_answer(other) for other in given}
            for one, given in zip(predicted, answers, strict=True)
        ]
    )


def answer_scores(answers: Sequence[str]) -> dict[str, float]:
    """Compute the soft score of each answer to one question, 0 to 1, by normalised answer.

    The score is the VQA accuracy of the answer: of ten annotators, one gives .3, two .6, three .9
    and four 1. These are the soft targets of VQA training (Teney et al., 2017, arXiv 1708.02711).
    The answer of a single annotator has the score 1.

    Raises:
        ValueError: There is no answer.
    """
    if not answers:
        raise ValueError("there is no answer to weigh")
    counts = Counter(normalize_answer(answer) for answer in answers)
    if len(answers) == 1:
        return dict.fromkeys(counts, 1.0)
    return {answer: _accuracy(count, len(answers)) for answer, count in counts.items()}


def consistency(right: Bool[ndarray, " N"], groups: Sequence[str]) -> float:
    """Compute the fraction of groups whose members are all correct, 0 to 1.

    In NLVR2 a group is a sentence; its members are the image pairs that it is judged for.

    Raises:
        ValueError: There is no statement, or the lengths differ.
    """
    if len(right) != len(groups):
        raise ValueError(f"there are {len(right)} judgements but {len(groups)} groups")
    if not groups:
        raise ValueError("there is no statement to score")
    wrong = {group for group, one in zip(groups, right.tolist(), strict=True) if not one}
    everything = set(groups)
    return len(everything - wrong) / len(everything)


def _agreement(predicted: str, answers: Sequence[str]) -> float:
    given, answer = [_on_one_line(answer) for answer in answers], _on_one_line(predicted)
    if len(set(given)) > 1:
        given, answer = [normalize_answer(other) for other in given], normalize_answer(answer)
    return _accuracy(given.count(answer), len(given))


def _accuracy(count: int, people: int) -> float:
    """Compute the accuracy of an answer of `count` annotators, each of all left out once."""
    with_one_out = count * min(1.0, (count - 1) / AGREEING) if count else 0.0
    return (with_one_out + (people - count) * min(1.0, count / AGREEING)) / people


def _without_punctuation(text: str) -> str:
    # A mark next to a space is removed, as is every mark if a comma groups digits. Between letters
    # it becomes a space. The check uses the original text.
    grouped = _GROUPED_DIGITS.search(text) is not None
    found = text
    for mark in _PUNCTUATION:
        gone = grouped or f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if gone else " ")
    return _FULL_STOP.sub("", found, count=_FULL_STOPS)


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _check(predicted: Sequence[str], answers: Sequence[Sequence[str]]) -> None:
    if not predicted:
        raise ValueError("there is no answer to score")
    if len(predicted) != len(answers):
        raise ValueError(f"{len(predicted)} predictions do not fit {len(answers)} questions")
    for index, given in enumerate(answers):
        if not given:
            raise ValueError(f"question {index} has no answer to be compared with")


# Language-prior baseline of VQA: answers predicted from the question without the image.


class LanguagePrior:
    """Most frequent answer of the training questions with the longest shared prefix.

    Prefixes are compared word by word. Without a shared prefix, the prediction is the most frequent
    answer of all.

    >>> asked = ["how many cats", "how many dogs", "what is it"]
    >>> guess = LanguagePrior(asked, [["two"], ["2"], ["cup"]])
    >>> guess("how many cups"), guess("what is that"), guess.most_frequent
    ('2', 'cup', '2')
    """

    def __init__(self, questions: Sequence[str], answers: Sequence[Sequence[str]]) -> None:
        """Count the answers of each question prefix.

        Raises:
            ValueError: There is no answer, or the lengths differ.
        """
        if len(questions) != len(answers):
            raise ValueError(
                f"{len(questions)} questions do not fit {len(answers)} lists of answers"
            )
        counts: dict[tuple[str, ...], Counter[str]] = {}
        for question, given in zip(questions, answers, strict=True):
            counted = Counter(normalize_answer(answer) for answer in given)
            if counted:
                words = _words(question)
                for length in range(len(words) + 1):
                    counts.setdefault(words[:length], Counter()).update(counted)
        if not counts:
            raise ValueError("there is no answer to learn a guess from")
        self._best = {prefix: _most_frequent(counted) for prefix, counted in counts.items()}

    @property
    def most_frequent(self) -> str:
        """The most frequent answer of all."""
        return self._best[()]

    def __call__(self, question: str) -> str:
        """Predict the answer to a question."""
        words = _words(question)
        lengths = range(len(words), -1, -1)
        return next(
            self._best[words[:length]] for length in lengths if words[:length] in self._best
        )


def _words(question: str) -> tuple[str, ...]:
    return tuple(question.lower().replace("?", " ").split())


def _most_frequent(counted: Counter[str]) -> str:
    """Return the most frequent answer; ties break alphabetically, independent of input order."""
    return min(counted, key=lambda answer: (-counted[answer], answer))

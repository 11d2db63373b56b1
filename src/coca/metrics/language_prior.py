"""What can be answered without looking at an image: the baselines under every score of answers.

Many questions give their answer away ("how many chairs": two), so an accuracy says little until it
is read beside the best guess of the blind.
"""

from collections import Counter
from collections.abc import Sequence

from coca.metrics.answers import normalize_answer


class LanguagePrior:
    """The most frequent answer to a question of known questions and answers.

    An unknown question is answered as those known ones that share the longest beginning with it,
    word by word; one without any as all of them together.

    >>> asked = ["how many cats", "how many dogs", "what is it"]
    >>> guess = LanguagePrior(asked, [["two"], ["2"], ["cup"]])
    >>> guess("how many cups"), guess("what is that"), guess.most_frequent
    ('2', 'cup', '2')
    """

    def __init__(self, questions: Sequence[str], answers: Sequence[Sequence[str]]) -> None:
        """Counts the answers behind each beginning of a question.

        Args:
            questions: Each with its answers.
            answers: Of all people; each counts.

        Raises:
            ValueError: There is no answer, or the lengths differ.
        """
        if len(questions) != len(answers):
            raise ValueError(
                f"{len(questions)} questions do not fit {len(answers)} lists of answers"
            )
        counts: dict[tuple[str, ...], Counter[str]] = {}
        for question, given in zip(questions, answers, strict=True):
            said = Counter(normalize_answer(answer) for answer in given)
            if said:
                words = _words(question)
                for length in range(len(words) + 1):
                    counts.setdefault(words[:length], Counter()).update(said)
        if not counts:
            raise ValueError("there is no answer to learn a guess from")
        self._best = {begun: _most_frequent(said) for begun, said in counts.items()}

    @property
    def most_frequent(self) -> str:
        """The most frequent answer of all."""
        return self._best[()]

    def __call__(self, question: str) -> str:
        """The guess for a question."""
        words = _words(question)
        lengths = range(len(words), -1, -1)
        return next(
            self._best[words[:length]] for length in lengths if words[:length] in self._best
        )


def _words(question: str) -> tuple[str, ...]:
    return tuple(question.lower().replace("?", " ").split())


def _most_frequent(said: Counter[str]) -> str:
    """Of equally frequent ones the first in the alphabet, so that no order of reading matters."""
    return min(said, key=lambda answer: (-said[answer], answer))

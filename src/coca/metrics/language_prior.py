"""Language-prior baseline of VQA: answers predicted from the question without the image.

Many questions suggest their answer ("how many chairs": two). An accuracy is meaningful only when
compared with this baseline.
"""

from collections import Counter
from collections.abc import Sequence

from coca.metrics.answers import normalize_answer


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

        Args:
            questions: Training questions.
            answers: Answers of all annotators of each question; each counts.

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

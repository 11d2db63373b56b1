"""METEOR (Denkowski and Lavie 2014), by the authors' Java program in pycocoevalcap 1.2.

Its tables of stems, synonyms and paraphrases make a reimplementation impractical. All other caption
metrics are computed without Java, in `coca.metrics.captioning`.
"""

import shutil
from collections.abc import Sequence
from contextlib import suppress

from coca.core.errors import ConfigError
from coca.core.extras import require


def require_meteor() -> None:
    """Check that METEOR can run on this machine.

    Raises:
        MissingExtraError: The extra `meteor` is not installed.
        ConfigError: There is no Java.
    """
    require("pycocoevalcap.meteor.meteor", extra="meteor")
    if shutil.which("java") is None:
        raise ConfigError(
            "METEOR is a Java program, and there is no `java` on the path; install a Java runtime, "
            "or leave METEOR out with `meteor: false`"
        )


def meteor(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> float:
    """Compute METEOR of a corpus of tokenized captions, 0 to 1.

    Raises:
        MissingExtraError, ConfigError: As `require_meteor`.
    """
    require_meteor()
    from pycocoevalcap.meteor.meteor import Meteor

    answers = {row: [" ".join(candidate)] for row, candidate in enumerate(candidates)}
    truth = {row: [" ".join(it) for it in group] for row, group in enumerate(references)}
    program = Meteor()
    try:
        score, _ = program.compute_score(truth, answers)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the METEOR program stopped ({error}); it needs a Java that may use 2 GB of memory"
        ) from error
    finally:
        if program.lock.locked():  # after a failure; its destructor would deadlock on the lock
            program.lock.release()
        for pipe in (program.meteor_p.stdin, program.meteor_p.stdout, program.meteor_p.stderr):
            with suppress(OSError):
                pipe.close()
    return float(score)

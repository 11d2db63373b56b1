"""Words of captions: the list in a model folder, and the words that are withheld by default.

`caption_words.txt` has one word per line. A line that begins with `!` is a withheld word: captions
have it only with `words="listed"`. The nouns of `class_words.json` in the same folder belong to it.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from coca.core.errors import ModelError
from coca.core.files.atomic import write_atomic
from coca.processing.class_words import CLASS_WORDS_FILE, ClassNoun, load_nouns, save_nouns

WordChoice: TypeAlias = Literal["polite", "listed", "any"]
"""Words that a caption may have: all of the model's list but the withheld ones, all of the list, or
any sequence of tokens."""

CAPTION_WORDS_FILE = "caption_words.txt"

WITHHELD_GROUPS = {
    "nudity and sex": "ass asses boob boobs breast breasts busty butt butts buttocks cleavage "
    "crotch erotic genitals hooker hookers horny naked nipple nipples nude nudes nudist nudists "
    "nudity penis porn prostitute prostitutes pussy seductive seductively sex sexual sexually sexy "
    "slut sluts slutty stripper strippers tits topless vagina whore whores",
    "death and injury": "beheaded bleeding bloody corpse corpses dead deceased died dies dying "
    "murder murdered murderer suicide",
    "looks": "chubby disgusting fat fatter fattest fatty filthy grotesque hideous obese overweight "
    "ugliest ugly unattractive uglier",
    "mind and character": "dumb freak freaks idiot idiotic idiots insane loser losers lunatic "
    "lunatics moron morons psycho retard retarded retards stupid weirdo weirdos",
    "intoxication": "addict addicts drunk drunken drunks intoxicated junkie junkies stoned wasted",
    "hostile or outdated words for people": "bimbo bum bums cripple crippled cripples gypsies "
    "gypsy hillbilly hobo hoboes hobos lame midget midgets negro negroes oriental orientals "
    "redneck rednecks savage savages slave slaves tramp tramps tranny",
    "what an image does not show": "bisexual criminal criminals gangster gangsters gay gays "
    "homeless homosexual homosexuals illegal lesbian lesbians queer terrorist terrorists thug "
    "thugs",
    "origin and faith": "african african-american african-americans africans american americans "
    "amish arab arabic arabs asian asians buddhist buddhists caucasian caucasians chinese "
    "christian christians foreigner foreigners hindu hindus hispanic hispanics immigrant "
    "immigrants indian indians japanese jew jewish jews latina latino latinos mexican mexicans "
    "muslim muslims",
    "profanity": "bastard bastards bitch bitches crap damn fuck fucked fucking shit shitty",
}
"""Words that a model does not volunteer, about people in particular, by their reason. Training
marks those of them that are in its list."""

WITHHELD = frozenset(" ".join(WITHHELD_GROUPS.values()).split())
"""All words of `WITHHELD_GROUPS`."""


@dataclass(frozen=True)
class CaptionWords:
    """Words that the captions of a model have."""

    words: frozenset[str]
    """All words of the list."""
    withheld: frozenset[str] = frozenset()
    """Words of the list that captions have only on request."""
    nouns: tuple[ClassNoun, ...] = ()
    """Nouns of the image encoder's classes, see `coca.processing.class_words`."""

    @classmethod
    def of(cls, words: Iterable[str]) -> "CaptionWords":
        """Create a list from words; words in `WITHHELD` are withheld."""
        found = frozenset(words)
        return cls(found, found & WITHHELD)

    def __or__(self, other: "CaptionWords") -> "CaptionWords":
        """Return the words of both lists; a word that either list withholds is withheld."""
        withheld = self.withheld | other.withheld
        return CaptionWords(self.words | other.words, withheld, self.nouns or other.nouns)

    def with_nouns(self, nouns: Sequence[ClassNoun]) -> "CaptionWords":
        """Return the list with nouns and their words: a run has the names of many classes once."""
        named = (name for noun in nouns for name in noun.words)
        both = self | CaptionWords.of(word for name in named for word in words_of(name))
        return replace(both, nouns=tuple(nouns))

    def chosen(self, choice: WordChoice) -> list[str]:
        """Return the words that a caption may have, sorted."""
        return sorted(self.words - self.withheld if choice == "polite" else self.words)

    def save(self, path: str | Path) -> None:
        """Write `caption_words.txt` and, with nouns, `class_words.json` next to it."""
        lines = (f"{'!' * (word in self.withheld)}{word}\n" for word in sorted(self.words))
        write_atomic(path, "".join(lines).encode())
        if self.nouns:
            save_nouns(self.nouns, Path(path).with_name(CLASS_WORDS_FILE))

    @classmethod
    def load(cls, path: str | Path) -> "CaptionWords | None":
        """Load the files that `save` wrote; None without `caption_words.txt`."""
        try:
            lines = Path(path).read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error
        marked = [line.removesuffix("\r") for line in lines if line.strip()]
        words = [line.removeprefix("!") for line in marked]
        for number, word in enumerate(words, start=1):
            if list(words_of(word)) != [word]:
                raise ModelError(
                    f"{path} has {word[:40]!r} as word {number}; each line must be one word, "
                    "without spaces, and without punctuation at its ends"
                )
        withheld = (line[1:] for line in marked if line.startswith("!"))
        nouns = load_nouns(Path(path).with_name(CLASS_WORDS_FILE))
        return cls(frozenset(words), frozenset(withheld), nouns)


def words_of(text: str) -> Iterator[str]:
    """Yield the words of a text: what spaces separate, without punctuation at both ends.

    The apostrophe of a contraction that is apart from its word is part of it: "man 's" has the
    words "man" and "'s".
    """
    for unit in text.split():
        first, last = 0, len(unit)
        while first < last and is_punctuation(unit[first]):
            first += 1
        while last > first and is_punctuation(unit[last - 1]):
            last -= 1
        if first < last:
            is_contraction = first == 1 and unit[0] in _APOSTROPHES
            yield unit[first - is_contraction : last]


def is_punctuation(text: str) -> bool:
    """Return whether a text consists of punctuation marks and symbols."""
    return all(unicodedata.category(character)[0] in "PS" for character in text)


def joins_words(text: str) -> bool:
    """Return whether a text has a mark that joins two words, such as a hyphen."""
    return _JOINERS.search(text) is not None


_APOSTROPHES = "'\u2019"
_JOINERS = re.compile(rf"[-{_APOSTROPHES}/&@_\u2010-\u2015]")

"""Penn Treebank tokenizer, the input of caption metrics.

It reproduces pycocoevalcap 1.2 with the Stanford tokenizer 3.4.1: lower case, `do n't` for "don't",
no punctuation. Its oddities are kept: `!!` and brackets (`-lrb-`) remain as words. It is limited to
captions: telephone numbers with spaces and smileys are split differently, and a single letter keeps
its full stop before any word.
"""

import re

# A full stop after these belongs to them; after any other word it ends a sentence.
_ABBREVIATIONS = """
    adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bancorp bhd bldg blvd brig
    bros calif capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec
    ens esq est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul
    jun kan kans ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms
    msgr mt mtg natl neb nev nov oct okla penn pfc ph plc ppte ppty pres prof profs pte ptes pty
    ptys pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr st ste supt supts sys tel
    tenn thu thurs treas tue tues univ va vs vt wed wis wisc wm wyo
"""

_DROPPED = frozenset(("'", "`", '"', "…", ".", "?", "!", ",", ":", "-", ";"))

_REWRITTEN = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "€": "$", "£": "#", "¢": "cents", "½": "1/2", "¼": "1/4", "¾": "3/4",
}  # fmt: skip

# Curly quotes become straight; dashes get spaces, since they separate words, unlike hyphens.
_PLAIN = str.maketrans(
    dict.fromkeys("\u2018\u2019", "'")
    | dict.fromkeys("\u201c\u201d", '"')
    | dict.fromkeys("\u2013\u2014", " - ")
)

_WORD = re.compile(
    rf"""
      https?://\S+ | [\w.+-]+@[\w-]+(?:\.[\w-]+)+                # addresses
    | n't\b | '(?:s|re|ve|ll|m|d|em|n'|\d\ds)(?!\w)              # what a word was cut before
    | 't(?=is\b|was\b) | y'(?=all\b) | can(?=not\b) | gon(?=na\b) | wan(?=na\b) | got(?=ta\b)
    | gim(?=me\b) | lem(?=me\b)
    | (?:[a-z]\.)+[a-z]?(?!\w)\.?                                # U.S. and initials
    | (?:{"|".join(_ABBREVIATIONS.split())})\.(?!\w) | ph\.d\.
    | (?:art|ca|figs?|nos?|op|pp|prop)\.(?=\s*\d)
    | \d+(?::\d+)+ | [+-]?(?:\d+(?:[.,]\d+)*|\.\d+)(?![\w/-])    # times and numbers
    | [od]'[a-z]+ | ma'am | (?-i:[A-Z]+(?:&[A-Z]+)+)
    | \w+?(?=n't\b) | (?:[\#@](?=[a-z]))?\w+(?:[-/.]\w+)*
    | [!?]+ | \*+ | \S
    """,
    re.IGNORECASE | re.VERBOSE,
)


def words(sentence: str) -> list[str]:
    """Tokenize a sentence.

    >>> words("A dog's ball isn't here.")
    ['a', 'dog', "'s", 'ball', 'is', "n't", 'here']
    """
    found = _WORD.findall(sentence.translate(_PLAIN))
    return [_REWRITTEN.get(word, word.lower()) for word in found if word not in _DROPPED]

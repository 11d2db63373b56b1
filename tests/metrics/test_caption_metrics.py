"""Captions are cut into words as the official caption evaluation cuts them."""

import json
import shutil

import pytest

from coca.metrics.caption_metrics import words
from developer_data import sample_file

OFFICIAL = "metrics/coco_fakecap_126.json"

# What the Stanford tokenizer of pycocoevalcap 1.2 gives; a test below asks it where Java is.
CUT = {
    "A dog's ball isn't here.": "a dog 's ball is n't here",
    "I can't, cannot, won't and shouldn't've": "i ca n't can not wo n't and should n't 've",
    "they're we've I'm I'd you'll": "they 're we 've i 'm i 'd you 'll",
    "gonna wanna gotta lemme gimme": "gon na wan na got ta lem me gim me",
    "'tis rock 'n' roll, y'all": "'t is rock 'n' roll y' all",
    "it\u2019s \u201cquoted\u201d \u2026 \u2014 \u2018so\u2019": "it 's quoted so",
    "Mr. Fox walks on Main St. at 5 p.m.": "mr. fox walks on main st. at 5 p.m.",
    "the U.S. flag on plan b.": "the u.s. flag on plan b.",
    "No. 5 says no. So fig. 2": "no. 5 says no so fig. 2",
    "a t-shirt, black/white - or -dash-": "a t-shirt black/white or dash",
    "1,000 people 3.5 miles 8:25am 90's": "1,000 people 3.5 miles 8:25 am 90 's",
    "1/2 #2 #two $5 50% .5 -5": "1/2 # 2 #two $ 5 50 % .5 -5",
    "legs 5, 6 and a 4x4": "legs 5 6 and a 4x4",
    "(left) [right] {curly}": "-lrb- left -rrb- -lsb- right -rsb- -lcb- curly -rcb-",
    "wow! wow!! what? why?!": "wow wow !! what why ?!",
    "AT&T and b&w at o'clock": "at&t and b & w at o'clock",
    "see foo.com or me@foo.com. Now": "see foo.com or me@foo.com now",
    "half \u00bd of 5\u00a2 and 5\u20ac": "half 1/2 of 5 cents and 5 $",
    "a man,woman and child.They are": "a man woman and child.they are",
    " . , ... -- ": "",
}


@pytest.mark.parametrize("sentence", CUT)
def test_a_sentence_is_cut_as_the_treebank_cuts_it(sentence: str) -> None:
    assert " ".join(words(sentence)) == CUT[sentence]


def test_real_captions_have_the_official_words() -> None:
    path = sample_file(OFFICIAL, "comparison with the official words of 757 captions")
    data = json.loads(path.read_text())
    for key, references in data["refs"].items():
        assert [" ".join(words(it)) for it in references] == data["tok_refs"][key]
        assert " ".join(words(data["cands"][key])) == data["tok_cands"][key]


@pytest.mark.skipif(shutil.which("java") is None, reason="the official tokenizer needs Java")
def test_the_official_tokenizer_agrees() -> None:
    tokenizer = pytest.importorskip(
        "pycocoevalcap.tokenizer.ptbtokenizer", reason="pycocoevalcap is not installed"
    ).PTBTokenizer()
    asked = {sentence: [{"caption": sentence}] for sentence in CUT}
    assert tokenizer.tokenize(asked) == {sentence: [cut] for sentence, cut in CUT.items()}

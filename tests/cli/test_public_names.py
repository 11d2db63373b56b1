"""The public names are those of tests/public_names.txt, so that none changes by accident."""

import public_names


def test_no_public_name_is_gone_or_unlisted() -> None:
    listed = set(public_names.FILE.read_text(encoding="utf-8").splitlines())
    found = public_names.names()
    # docs/upgrade.md has the rule by which a released name goes.
    assert sorted(listed - found) == [], "gone: deprecate it first, see docs/upgrade.md"
    assert sorted(found - listed) == [], "new: run `python tests/public_names.py`"

"""Where torch is not installed, tests that compare with it are not collected."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["test_decoding.py", "test_preprocess.py"]

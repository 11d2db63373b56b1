"""Emoji of four vendors as WebDataset shards, split for training and tests.

OpenMoji is used for tests only, and some concepts are held out from all vendors. Tests therefore
cover unseen styles and unseen concepts.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from coca.core.errors import ConfigError
from coca.core.extras import require
from coca.core.files.atomic import atomic_folder, write_atomic
from coca.core.progress import Bar, ProgressMaker, silent
from coca.data.sample import Sample
from coca.data.sources.tar.shards import ShardWriter
from coca.demo.emoji.packages import (
    SETS,
    WORDS,
    Concept,
    Draw,
    EmojiSet,
    read_concepts,
    read_drawings,
    read_json,
)

UNSEEN_VENDOR = "openmoji"
HELD_OUT_CONCEPTS = 200
HELD_OUT_SEED = 0

_SYMBOLS = "symbols"


@dataclass(frozen=True)
class PackedSets:
    """Summary of the written shards."""

    folder: Path
    samples: Mapping[str, int]
    """Number of samples per part, such as `"train/noto"`."""
    concepts: int
    """Number of concepts drawn by at least one set."""
    shared: int
    """Number of shared concepts, on which scores are reported; see `pack_sets`."""
    held_out: int


def pack_sets(
    out: str | Path,
    packages: str | Path,
    *,
    size_px: int = 128,
    held_out: int = HELD_OUT_CONCEPTS,
    progress: ProgressMaker = silent,
) -> PackedSets:
    """Write all drawings as shards, split so that no test data leak into training.

        train/SET-PART-*.tar          three vendors in four sets, without the held-out concepts
        test/openmoji-PART-*.tar      the unseen vendor's drawings of the concepts in training
        heldout/SET-PART-*.tar        the held-out concepts as each set draws them
        sets.json                     packages, versions, licences, and the held-out concepts

    PART is `shared-plain`, `shared-flags`, `other-plain` or `other-flags`. A concept is shared if
    all four vendors draw it as vectors, it does not come in skin tones, and it is not a symbol. The
    held-out concepts are sampled from those that all five sets draw, without flags, stratified by
    group.

    Args:
        out: Output folder; an existing one is replaced.
        packages: A `node_modules` folder with the packages of `SETS` and `WORDS`.
        size_px: Side of each drawing, pixels; the background is transparent.
        held_out: Number of held-out concepts.
        progress: Optional progress callback.

    Raises:
        ConfigError: The sets share fewer than `held_out` concepts.
        DataError: A package is missing.
        MissingExtraError: The extra `demo` is not installed.
    """
    out, packages = Path(out), Path(packages)
    require("resvg_py", extra="demo")
    concepts = read_concepts(packages)
    drawings = {it.name: read_drawings(it, packages) for it in SETS}
    everywhere = _common(concepts, list(drawings.values()))
    in_vectors = _common(concepts, [drawings[it.name] for it in SETS if it.vectors])
    plan = _Plan(
        shared=frozenset(code for code in in_vectors if _plain(concepts[code])),
        held_out=choose_held_out((concepts[code] for code in everywhere), count=held_out),
    )
    samples: dict[str, int] = {}
    with atomic_folder(out) as unfinished:
        for one in SETS:
            drawn = {
                concept: drawings[one.name][code]
                for code, concept in concepts.items()
                if code in drawings[one.name]
            }
            with progress(f"drawing {one.name}", len(drawn)) as bar:
                for (split, part), members in _placed(one, drawn, plan, size_px, bar).items():
                    with ShardWriter(unfinished / split, name=f"{one.name}-{part}") as writer:
                        for sample in members:
                            writer.write(sample)
                    key = f"{split}/{one.name}"
                    samples[key] = samples.get(key, 0) + len(members)
        _write_terms(unfinished / "sets.json", packages, plan.held_out, samples)
    known = {code for drawn in drawings.values() for code in drawn}
    return PackedSets(
        folder=out,
        samples=samples,
        concepts=len(concepts.keys() & known),
        shared=len(plan.shared),
        held_out=len(plan.held_out),
    )


@dataclass(frozen=True)
class _Plan:
    """Codes of the shared and of the held-out concepts."""

    shared: frozenset[str]
    held_out: frozenset[str]

    def part(self, one: EmojiSet, concept: Concept) -> tuple[str, str]:
        """Return the split and part of a drawing."""
        kind = "shared" if concept.code in self.shared else "other"
        seen = "test" if one.vendor == UNSEEN_VENDOR else "train"
        split = "heldout" if concept.code in self.held_out else seen
        return split, f"{kind}-{'flags' if concept.flag else 'plain'}"


def _placed(
    one: EmojiSet, drawn: Mapping[Concept, Draw], plan: _Plan, size_px: int, bar: Bar
) -> dict[tuple[str, str], list[Sample]]:
    """Group the samples of a set by split and part."""
    parts: dict[tuple[str, str], list[Sample]] = {}
    for concept, draw in drawn.items():
        sample = _sample(one, concept, draw(size_px), shared=concept.code in plan.shared)
        parts.setdefault(plan.part(one, concept), []).append(sample)
        bar.advance()
    return parts


def _common(concepts: Mapping[str, Concept], drawings: Sequence[Mapping[str, Draw]]) -> set[str]:
    return {code for code in concepts if all(code in drawn for drawn in drawings)}


def _plain(concept: Concept) -> bool:
    return not concept.toned and concept.group != _SYMBOLS


def choose_held_out(
    concepts: Iterable[Concept], *, count: int, seed: int = HELD_OUT_SEED
) -> frozenset[str]:
    """Choose the codes of `count` concepts, stratified by group, without flags.

    Within a group they are sorted by a hash, so that a later package version with another concept
    changes few choices.

    Raises:
        ConfigError: There are fewer than `count` concepts.
    """
    groups: dict[str, list[str]] = {}
    for concept in concepts:
        if not concept.flag:
            groups.setdefault(concept.group, []).append(concept.code)
    total = sum(map(len, groups.values()))
    if count > total:
        raise ConfigError(f"{count} concepts cannot be held out of {total}")
    share = {group: count * len(codes) / max(1, total) for group, codes in sorted(groups.items())}
    taken = {group: int(exact) for group, exact in share.items()}
    # Largest remainder method.
    for group in sorted(share, key=lambda it: taken[it] - share[it])[: count - sum(taken.values())]:
        taken[group] += 1
    return frozenset(
        code
        for group, codes in groups.items()
        for code in sorted(codes, key=lambda it: hashlib.sha256(f"{seed}/{it}".encode()).digest())[
            : taken[group]
        ]
    )


def _sample(one: EmojiSet, concept: Concept, image: bytes, *, shared: bool) -> Sample:
    return Sample(
        key=f"{one.name}/{concept.code}",
        image=image,
        captions=concept.captions(),
        labels=(concept.label,),
        metadata={
            "vendor": one.vendor,
            "set": one.name,
            "name": concept.label,
            "keywords": list(concept.keywords),
            "group": concept.group,
            "subgroup": concept.subgroup,
            "codepoints": concept.code,
            "flag": concept.flag,
            "shared": shared,
        },
    )


def _write_terms(
    path: Path, packages: Path, held_out: frozenset[str], samples: Mapping[str, int]
) -> None:
    """Write the packages, licences, counts and held-out concepts next to the shards."""
    terms = [
        {
            **{name: getattr(one, name) for name in ("name", "vendor", "package")},
            # The installed version, which may differ from the pinned one.
            "version": read_json(packages / one.package / "package.json")["version"],
            "licence": one.licence,
            "author": one.author,
            "source": one.source,
            "pictures": {
                split: count
                for part, count in samples.items()
                for split, _, name in [part.partition("/")]
                if name == one.name
            },
        }
        for one in (*SETS, WORDS)
    ]
    content = {"sets": terms, "held_out": sorted(held_out)}
    text = json.dumps(content, indent=2, ensure_ascii=False)
    write_atomic(path, (text + "\n").encode())

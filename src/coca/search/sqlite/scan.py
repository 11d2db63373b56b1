"""Exact search of the rows of a collection in memory: int8 codes first, then a few float32 rows.

The codes of all rows give each a score with a margin, see `coca.search.sqlite.codes`. Only rows
that may be among the best are read in float32, see `coca.search.sqlite.selection`. So the result
equals that of a search of all float32 rows, but for what `codes` says of its margin.

Dimensions: N rows, B blocks of R rows, Q queries, E embedding, C candidates, K results.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8, UInt64

from coca.search.ranking import NO_FLOOR, TypedQuery, above_floor, words_part
from coca.search.search_options import GroupBy, Ranking, SearchOptions, Side
from coca.search.sqlite.codes import BLOCK_ROWS, Codes, margins, products
from coca.search.sqlite.selection import (
    OUT,
    SIDES,
    Ranked,
    RowReader,
    Selection,
    Words,
)

EXISTS, HIDDEN, HAS_TEXT, GIVEN = 1, 2, 4, 8
"""Flags of rows: there is a record; searches leave it out; it has a caption vector; people gave its
caption."""

_QUERY_ROWS = 16
"""Queries in a pass, which needs 4 bytes of memory for each query and row."""
_BY_COSINE: dict[Side, Ranking] = {
    "image": Ranking(image_weight=1.0, caption_weight=0.0),
    "text": Ranking(image_weight=0.0, caption_weight=1.0),
}
"""Rankings by one cosine."""


@dataclass(frozen=True)
class Block:
    """Rows of a collection, at most `BLOCK_ROWS`."""

    flags: UInt8[np.ndarray, " R"]
    contents: UInt64[np.ndarray, " R"]
    """Key of the content of the image, equal for copies only; 0 if unknown."""
    albums: UInt64[np.ndarray, " R"]
    """Key of the album; 0 without."""
    image: Codes
    text: Codes
    """Codes of the caption vectors; zeros where there is none."""


class Scan:
    """Immutable rows of a collection with exact search; threads may share it.

    Row `number * BLOCK_ROWS + offset` is a row of block `number`. A row takes 2 E + 25 bytes of
    memory.

    Attributes:
        blocks: The blocks by number; None is a block without records.
        embed_dim: Size of the vectors.
    """

    def __init__(self, blocks: Sequence[Block | None], embed_dim: int) -> None:
        """Search these blocks."""
        self.blocks, self.embed_dim = tuple(blocks), embed_dim
        self.codes: dict[Side, list[Codes | None]] = {
            side: [None if block is None else getattr(block, side) for block in blocks]
            for side in SIDES
        }
        """Codes of the blocks."""

    def replaced(self, blocks: Mapping[int, Block], count: int) -> "Scan":
        """Return `count` blocks, these at their numbers, old or new; the others are shared."""
        before = [*self.blocks, *[None] * (count - len(self.blocks))][:count]
        return Scan(
            [blocks.get(number, block) for number, block in enumerate(before)], self.embed_dim
        )

    def __len__(self) -> int:
        """Return the number of rows of all blocks, including those without a record."""
        return BLOCK_ROWS * len(self.blocks)

    @cached_property
    def flags(self) -> UInt8[np.ndarray, " N"]:
        """Flags of all rows."""
        return self._joined("flags", np.uint8)

    @cached_property
    def records(self) -> int:
        """Number of rows with a record."""
        return int(np.count_nonzero(self.flags & EXISTS))

    @cached_property
    def contents(self) -> UInt64[np.ndarray, " N"]:
        """Keys of the contents of all rows; 0 if unknown."""
        return self._joined("contents", np.uint64)

    @cached_property
    def albums(self) -> UInt64[np.ndarray, " N"]:
        """Keys of the albums of all rows; 0 without."""
        return self._joined("albums", np.uint64)

    @cached_property
    def captioned(self) -> float:
        """Fraction of the rows that are not hidden with a caption that people gave."""
        searched = self.searched()
        given = searched & self._has_caption(GIVEN).reshape(-1)
        return int(np.count_nonzero(given)) / max(int(np.count_nonzero(searched)), 1)

    @cached_property
    def limits(self) -> dict[Side, Float32[np.ndarray, "B 2"]]:
        """Limits of the codes of the blocks."""
        none = np.zeros(2, np.float32)
        limits = {
            side: [none if codes is None else codes.limits for codes in self.codes[side]]
            for side in SIDES
        }
        return {side: np.array(rows, np.float32).reshape(-1, 2) for side, rows in limits.items()}

    def searched(self, keep: Bool[np.ndarray, " N"] | None = None) -> Bool[np.ndarray, " N"]:
        """Return the mask of rows to search, which are not hidden and kept."""
        searched = (self.flags & (EXISTS | HIDDEN)) == EXISTS
        return searched if keep is None else searched & keep

    def copies(
        self, rows: Int64[np.ndarray, " K"], keep: Bool[np.ndarray, " N"] | None = None
    ) -> Int64[np.ndarray, " K"]:
        """Count for each row the records of its content that are not hidden.

        Args:
            rows: Rows that a search found.
            keep: Mask of rows to count. Default: all that are not hidden.
        """
        contents = self.contents[rows]
        keys, of_row = np.unique(contents, return_inverse=True)
        # Most rows are excluded by a part of their key.
        table = np.zeros(1 << 16, bool)
        table[keys.astype(np.uint16)] = True
        may = table[self.contents.astype(np.uint16)]
        may &= self.searched(keep)
        others = self.contents[may]
        at = np.searchsorted(keys, others).clip(max=max(len(keys) - 1, 0))
        counts = np.bincount(at[keys[at] == others], minlength=len(keys))[of_row]
        return np.where(contents > 0, counts, 1)

    def nearest(
        self,
        queries: Float[np.ndarray, "Q E"],
        options: SearchOptions,
        reader: RowReader,
        keep: Bool[np.ndarray, " N"] | None = None,
    ) -> list[tuple[Int64[np.ndarray, " K"], Float32[np.ndarray, " K"]]]:
        """Find for each query the groups whose best row has the largest dot product.

        Args:
            queries: Query vectors of any length.
            options: Number of groups, what they are, and vectors to compare with; `text` leaves out
                rows without a caption vector.
            reader: Reads candidates.
            keep: Mask of rows to search. Default: all that are not hidden.

        Returns:
            The best row of each group with its score, best first; ties are broken by id.
        """
        searched, on = self.searched(keep).reshape(-1, BLOCK_ROWS), options.on
        has_caption = self._has_caption()
        if on == "text":
            searched &= has_caption
        out = ~searched * OUT
        answers = []
        for start in range(0, len(queries), _QUERY_ROWS):
            part = np.asarray(queries[start : start + _QUERY_ROWS], np.float32)
            scores = products(self.codes[on], Codes.of(part), searched)
            for query, near in zip(part, scores, strict=True):
                near += out
                selection = Selection(
                    query=query,
                    ranking=_BY_COSINE[on],
                    floor=NO_FLOOR,
                    margins=self._margins(query),
                    counted=has_caption,
                    groups=partial(self._groups, options.group_by),
                    reader=reader,
                    read=(on,),
                )
                best = selection.best(near, options.offset + options.limit)
                answers.append((best.rows, best.image if on == "image" else best.caption))
        return answers

    def ranked(
        self,
        query: TypedQuery,
        ranking: Ranking,
        options: SearchOptions,
        reader: RowReader,
        keep: Bool[np.ndarray, " N"] | None = None,
        *,
        bm25: Words,
        text: Words,
    ) -> Ranked:
        """Find the groups whose best row has the highest score; see `coca.search.ranking`.

        Args:
            query: Query.
            ranking: Weights of the parts of a score.
            options: Number of groups, what they are, and the minimum dot product of an image.
            reader: Reads candidates.
            keep: Mask of rows to search. Default: all that are not hidden.
            bm25: BM25 of the query's words.
            text: Match of labels and texts, see `coca.search.words.text_match`.

        Returns:
            The best row of each group, best first; ties are broken by id.
        """
        searched = self.searched(keep).reshape(-1, BLOCK_ROWS)
        counted = self._has_caption(GIVEN)
        floor = query.caption_floor(self.captioned)
        vector, least = np.asarray(query.vector, np.float32), options.min_score
        codes, margin = Codes.of(vector[np.newaxis]), self._margins(vector)
        near = np.zeros(counted.shape, np.float32)
        if ranking.image_weight > 0 or least is not None:
            near = products(self.codes["image"], codes, searched)[0]
            if least is not None:
                searched &= near >= least - margin["image"][:, np.newaxis]
            near *= np.float32(ranking.image_weight)
        if ranking.caption_weight > 0:
            caption = products(self.codes["text"], codes, searched & counted)[0]
            near += above_floor(caption, floor) * (counted * np.float32(ranking.caption_weight))
        flat = near.reshape(-1)
        flat[bm25[0]] += words_part(bm25[1], ranking)
        flat[text[0]] += ranking.text_weight * text[1]
        near += ~searched * OUT
        selection = Selection(
            query=vector,
            ranking=ranking,
            floor=floor,
            margins=margin,
            counted=counted,
            groups=partial(self._groups, options.group_by),
            reader=reader,
            words=(bm25, text),
            min_score=least,
        )
        return selection.best(near, options.offset + options.limit)

    def _margins(self, query: Float32[np.ndarray, " E"]) -> dict[Side, Float64[np.ndarray, " B"]]:
        """Return the largest difference in each block of cosines by codes and exact ones."""
        return {side: margins(query, self.limits[side]) for side in SIDES}

    def _joined(self, name: str, dtype: Any) -> Any:
        joined = np.zeros((len(self.blocks), BLOCK_ROWS), dtype)
        for row, block in zip(joined, self.blocks, strict=True):
            if block is not None:
                row[: len(block.flags)] = getattr(block, name)
        return joined.reshape(-1)

    def _has_caption(self, flag: int = 0) -> Bool[np.ndarray, "B R"]:
        """Return the mask of rows with a caption vector, and this flag."""
        return ((self.flags & (HAS_TEXT | flag)) == HAS_TEXT | flag).reshape(-1, BLOCK_ROWS)

    def _groups(self, group_by: GroupBy, rows: Int64[np.ndarray, " C"]) -> UInt64[np.ndarray, " C"]:
        """Return the keys of the groups of rows."""
        if group_by == "path":
            return rows.astype(np.uint64)
        contents = self.contents[rows]
        # Bits are inverted for keys that differ from those of contents.
        keys = np.where(contents > 0, contents, ~rows.astype(np.uint64))
        if group_by == "album":
            albums = self.albums[rows]
            keys = np.where(albums > 0, ~albums, keys)
        return keys

"""Laws of vector encodings; tests/search/milvus/test_encoded_collection.py stores them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Float32

from coca.core.errors import ConfigError, SearchError
from coca.search.records import WHOLE
from coca.search.vector_codec import VectorCodec, fit_codec
from coca.search.vector_encoding import Precision, Projection, VectorEncoding

DIM = 16


def unit_rows(count: int, seed: int = 0) -> Float32[np.ndarray, "N E"]:
    """Draw directions whose variance differs between dimensions, in an arbitrary basis."""
    random = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(np.random.default_rng(99).standard_normal((DIM, DIM)))
    rows = random.standard_normal((count, DIM)) * np.geomspace(1, 1e-3, DIM) @ basis
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def fitted(**options: object) -> VectorCodec:
    encoding = VectorEncoding(**options)  # type: ignore[arg-type]
    return fit_codec(encoding, DIM, lambda count: unit_rows(200))


@given(
    dimensions=st.sampled_from([None, 8, 16]),
    projection=st.sampled_from(["truncate", "pca"]),
    precision=st.sampled_from(["float32", "int8", "binary"]),
    seed=st.integers(0, 99),
)
def test_encoding_a_decoded_vector_gives_the_stored_vector(
    dimensions: int | None, projection: Projection, precision: Precision, seed: int
) -> None:
    codec = fitted(dimensions=dimensions, projection=projection, precision=precision)
    stored = codec.encode(unit_rows(5, seed))
    decoded = codec.decode(stored)
    assert decoded.shape == (5, DIM)
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, atol=1e-5)
    again = codec.encode(decoded)
    if precision == "float32":
        np.testing.assert_allclose(np.stack(again), np.stack(stored), atol=1e-6)
    else:
        assert [bytes(value) for value in again] == [bytes(value) for value in stored]


@pytest.mark.parametrize("projection", ["truncate", "pca"])
def test_inner_products_of_stored_queries_are_those_of_decoded_vectors(
    projection: Projection,
) -> None:
    codec = fitted(dimensions=6, projection=projection)
    rows, queries = unit_rows(20), unit_rows(4, seed=1)
    stored, sent = codec.encode(rows), np.stack(codec.encode_queries(queries))
    found = sent @ np.stack(stored).T
    assert np.stack(stored).shape == (20, 6)
    np.testing.assert_allclose(found, queries @ codec.decode(stored).T, atol=1e-5)


def test_the_default_stores_the_same_bits() -> None:
    rows = unit_rows(3)
    codec = fit_codec(WHOLE, DIM)
    assert not WHOLE.changes
    for found in (codec.encode(rows), codec.encode_queries(rows), codec.decode(list(rows))):
        assert np.array_equal(np.stack(list(found)), rows)


def test_principal_components_keep_more_than_the_first_dimensions() -> None:
    rows = unit_rows(100, seed=2)
    cosines = {
        projection: float(np.sum(rows * codec.decode(codec.encode(rows)), axis=1).mean())
        for projection in ("truncate", "pca")
        for codec in [fitted(dimensions=8, projection=projection)]
    }
    assert cosines["pca"] > 0.99 > cosines["truncate"]


def test_the_basis_spans_the_best_subspace_of_the_sample() -> None:
    rows = unit_rows(200).astype(np.float64)
    _, _, right = np.linalg.svd(rows)
    basis = fitted(dimensions=4, projection="pca")
    kept = basis.decode(basis.encode(unit_rows(200)))
    within = kept - kept @ right[:4].T @ right[:4]
    np.testing.assert_allclose(within, 0, atol=2e-3)


@pytest.mark.parametrize(("precision", "size"), [("float32", 32), ("int8", 8), ("binary", 1)])
def test_a_stored_vector_has_the_bytes_of_its_precision(precision: Precision, size: int) -> None:
    codec = fitted(dimensions=8, precision=precision)
    (stored,) = codec.encode(unit_rows(1))
    assert codec.vector_bytes == len(bytes(stored)) == size


def test_the_hamming_distance_is_that_of_the_signs() -> None:
    codec, rows = fitted(precision="binary"), unit_rows(2, seed=3)
    one, other = (np.frombuffer(bits, np.uint8) for bits in codec.encode(rows))
    differing = int(np.sum((rows[0] > 0) != (rows[1] > 0)))
    assert int(np.bitwise_count(one ^ other).sum()) == differing
    cosine = float(np.prod(codec.decode([one.tobytes(), other.tobytes()]), axis=0).sum())
    assert cosine == pytest.approx(1 - 2 * differing / DIM, abs=1e-6)


@pytest.mark.parametrize("form", [lambda bits: bits, lambda bits: [bits], list])
def test_values_are_read_in_every_form_of_the_client(form: object) -> None:
    for precision in ("int8", "binary"):
        codec = fitted(precision=precision)
        stored = [bytes(value) for value in codec.encode(unit_rows(2))]
        np.testing.assert_array_equal(
            codec.decode([form(value) for value in stored]),  # type: ignore[operator]
            codec.decode(stored),
        )


@pytest.mark.parametrize("projection", ["truncate", "pca"])
def test_a_codec_is_the_same_after_it_was_stored(projection: Projection) -> None:
    codec = fitted(dimensions=8, projection=projection, precision="int8")
    again = VectorCodec.from_json(codec.to_json(), embed_dim=8)
    assert (again.encoding, again.embed_dim) == (codec.encoding, DIM)
    assert again.to_json() == codec.to_json()
    rows = unit_rows(4, seed=5)
    assert np.array_equal(np.stack(again.encode(rows)), np.stack(codec.encode(rows)))


def test_a_basis_is_used_again() -> None:
    codec = fitted(dimensions=8, projection="pca", precision="int8")
    again = fit_codec(replace(codec.encoding, precision="float32"), DIM, codec)
    assert np.array_equal(again.components, codec.components)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"embed_dim": 4, "components": 1})])
def test_a_damaged_encoding_is_an_error(text: str) -> None:
    with pytest.raises(SearchError, match="its vector encoding cannot be read"):
        VectorCodec.from_json(text, embed_dim=4)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"dimensions": 17}, r"dimensions must be in \[1, 16\], got 17"),
        ({"dimensions": 12, "precision": "binary"}, "must be a multiple of 8, got 12"),
    ],
)
def test_dimensions_that_do_not_fit_are_an_error(options: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        fitted(**options)


def test_principal_components_need_enough_vectors_that_fit() -> None:
    encoding = VectorEncoding(dimensions=8, projection="pca")
    with pytest.raises(SearchError, match="at least 8 sample vectors, got 3"):
        fit_codec(encoding, DIM, lambda count: unit_rows(3))
    with pytest.raises(SearchError, match="needs sample vectors"):
        fit_codec(encoding, DIM)
    large = VectorEncoding(dimensions=1_024, projection="pca")
    with pytest.raises(SearchError, match="at most 366 dimensions do"):
        fit_codec(large, 1_024)

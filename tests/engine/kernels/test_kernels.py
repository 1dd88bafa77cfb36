"""The compiled products against NumPy, in every format and layout, for sizes that fit no vector."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from sparseact.engine.forward.entries import read_rows, unpack_transposed
from sparseact.engine.forward.model import Model
from sparseact.engine.forward.products import products
from sparseact.engine.forward.prompt_choice import copy_columns
from sparseact.engine.quant.arena import Arena, Linear
from sparseact.engine.quant.layouts import LAYOUTS
from sparseact.engine.simd.entry import Entry
from sparseact.models.formats import BLOCK, FORMATS, Quantised, dequantise, quantise

axpy_columns = Entry("kernels.axpy_columns.axpy_columns")
axpy_long_columns = Entry("kernels.axpy_long_columns.axpy_long_columns")
dot_panels, dot_rows = Entry("kernels.gemv_panels.dot_panels"), Entry("kernels.gemv_rows.dot_rows")
add_low, dot_high = Entry("kernels.gemv_planes.add_low"), Entry("kernels.gemv_planes.dot_high")
axpy_block, spread_input = Entry("kernels.axpy_columns.axpy_block"), Entry("kernels.gemv_planes.spread_input")
quantise_input = Entry("quant.activations.quantise_input")

SIZES = st.tuples(st.integers(1, 150), st.integers(1, 200))
FORMS = pytest.mark.parametrize("form", FORMATS)
PAIRS = [(form, layout) for form in FORMATS for layout in LAYOUTS if layout != "planes" or form == "q8"]
LAID_OUT = pytest.mark.parametrize(("form", "layout"), PAIRS)


class Problem:
    """Random weights of one linear in an arena with a neighbour on each side, an input, and the buffers."""

    def __init__(self, form, layout, outputs, inputs, seed, *, active=None):
        rng = np.random.default_rng(seed)
        self.weights = quantise(rng.standard_normal((outputs, inputs)).astype(np.float32) * 0.1, form)
        self.arena = Arena.allocate([Linear(name, form, layout, outputs, inputs) for name in ("before", "it", "after")])
        others = quantise(np.full((outputs, inputs), np.float32(9)), form)
        for i, weights in enumerate((others, self.weights, others)):
            self.arena.store(i, weights)
        padded = -(-inputs // 64) * 64
        self.x = np.zeros(padded, np.float32)
        self.x[:inputs] = rng.standard_normal(inputs)
        if active is not None:
            self.x[np.setdiff1d(np.arange(inputs), active)] = 0
        self.aq, self.ascale = np.zeros(padded, np.int8), np.zeros(padded // 32, np.float32)
        self.asum = np.zeros(padded // 32, np.int32)
        quantise_input(self.x, inputs, self.aq, self.ascale, self.asum)
        self.y = np.zeros(-(-outputs // 64) * 64, np.float32)

    @property
    def input_seen(self):
        """The input as the kernel sees it: rounded to int8 where the weights are integers."""
        if self.weights.scales is None:
            return self.x[: self.weights.inputs]
        return (self.aq.reshape(-1, 32) * self.ascale[:, None]).reshape(-1)[: self.weights.inputs]

    def expected(self):
        """In float64, from the dequantised weights."""
        return dequantise(self.weights).astype(np.float64) @ self.input_seen

    def assert_close(self, y, expected, y_of_sizes=None):
        """Within 1e-5 of the sum of the sizes of the terms; of a weight s n + m, both s n x and m x are terms."""
        terms = np.abs(dequantise(self.weights))
        if self.weights.mins is not None:
            terms += 2 * np.abs(self.weights.mins.astype(np.float32)).repeat(BLOCK, axis=1)[:, : self.weights.inputs]
        size = terms @ np.abs(self.input_seen) + 1e-6
        size = size if y_of_sizes is None else size[y_of_sizes]
        assert np.all(np.abs(y - expected) <= 1e-5 * size)


@FORMS
@settings(max_examples=25, deadline=None)
@given(SIZES, st.integers(0, 2**32))
def test_panels_are_the_product_with_the_dequantised_weights(form, sizes, seed):
    p = Problem(form, "panels", *sizes, seed)
    dot_panels(p.arena.data, p.arena.table, 1, 0, -(-sizes[0] // 16), p.x, p.aq, p.ascale, p.asum, p.y)
    p.assert_close(p.y[: sizes[0]], p.expected())


@FORMS
def test_a_range_of_panels_writes_nothing_else(form):
    p = Problem(form, "panels", 100, 96, 0)
    p.y[:] = 77
    dot_panels(p.arena.data, p.arena.table, 1, 2, 4, p.x, p.aq, p.ascale, p.asum, p.y)
    assert np.all(p.y[:32] == 77)
    assert np.all(p.y[64:] == 77)
    p.assert_close(p.y[32:64], p.expected()[32:64], slice(32, 64))


def model_of(p):
    """The arena's linear in the middle, by name."""
    return Model(p.arena, {"it": 1}, np.zeros(1, np.float32), {})


@FORMS
@settings(max_examples=15, deadline=None)
@given(st.tuples(st.integers(1, 600), st.integers(1, 100)), st.data())
def test_columns_are_copied_as_they_are_or_rounded_once_more(form, sizes, data):
    columns = np.array(sorted(data.draw(st.sets(st.integers(0, sizes[1] - 1), min_size=1))))
    weights = quantise(np.random.default_rng(sizes).standard_normal(sizes).astype(np.float32), form)
    kept = form if form in {"f32", "bf16"} else "q8"
    copied = Linear("it.chosen", kept, "panels", sizes[0], len(columns))
    arena = Arena.allocate([Linear("it", form, "panels", *sizes), copied])
    arena.store(0, weights)
    model = Model(arena, {"it": 0, "it.chosen": 1}, np.zeros(1, np.float32), {})
    copy_columns(model, "it", columns)
    expected = dequantise(quantise(model.weight("it")[:, columns], kept))
    np.testing.assert_array_equal(model.weight("it.chosen"), expected)
    if form in {"f32", "bf16"}:
        np.testing.assert_array_equal(expected, dequantise(weights)[:, columns])


@LAID_OUT
@settings(max_examples=15, deadline=None)
@given(
    st.tuples(st.integers(1, 150), st.one_of(st.integers(1, 200), st.integers(500, 700))),
    st.integers(1, 20),
    st.integers(0, 2**32),
)
def test_many_tokens_at_once_are_one_after_the_other_to_the_bit(form, layout, sizes, tokens, seed):
    panels, p = Problem(form, "panels", *sizes, seed), Problem(form, layout, *sizes, seed)
    xs = np.random.default_rng(seed).standard_normal((tokens, sizes[1])).astype(np.float32)
    with products(model_of(p), threads=2) as product:
        found = product("it", xs)
    assert found.shape == (tokens, sizes[0])
    for x, y in zip(xs, found, strict=True):
        panels.x[: sizes[1]] = x
        quantise_input(panels.x, sizes[1], panels.aq, panels.ascale, panels.asum)
        panels.assert_close(y, panels.expected())
        arguments = (panels.x, panels.aq, panels.ascale, panels.asum, panels.y)
        dot_panels(panels.arena.data, panels.arena.table, 1, 0, -(-sizes[0] // 16), *arguments)
        np.testing.assert_array_equal(y, panels.y[: sizes[0]])


@FORMS
@settings(max_examples=25, deadline=None)
@given(SIZES, st.floats(0, 1), st.integers(0, 2**32))
def test_columns_are_the_product_with_the_active_inputs(form, sizes, density, seed):
    rng = np.random.default_rng(seed)
    active = np.flatnonzero(rng.random(sizes[1]) < density).astype(np.int32)
    p = Problem(form, "columns", *sizes, seed, active=active)
    acc = np.zeros(len(p.y), np.int32)
    p.y[:] = 3
    # In two parts, as two threads would; the parts may meet within a block.
    middle = len(active) // 2
    for first, last in ((0, middle), (middle, len(active))):
        axpy_columns(p.arena.data, p.arena.table, 1, active, first, last, p.x, p.aq, p.ascale, acc, p.y)
    assert np.allclose(p.y[: sizes[0]], 3 + p.expected(), rtol=1e-5, atol=1e-5)
    assert not acc.any()


@FORMS
@settings(max_examples=25, deadline=None)
@given(SIZES, st.floats(0, 1), st.integers(0, 2**32))
def test_long_columns_are_the_product_with_the_active_inputs(form, sizes, density, seed):
    """As two threads would, by rows: to the bit what one would, and nothing beyond."""
    rng = np.random.default_rng(seed)
    active = np.flatnonzero(rng.random(sizes[1]) < density).astype(np.int32)
    p = Problem(form, "columns", *sizes, seed, active=active)
    rows = -(-sizes[0] // 64) * 64
    arguments = (p.x, p.aq, p.ascale)
    whole, p.y[:] = np.full(rows, 3, np.float32), 3
    axpy_long_columns(p.arena.data, p.arena.table, 1, active, len(active), 0, rows, *arguments, whole)
    middle = rows // 128 * 64
    axpy_long_columns(p.arena.data, p.arena.table, 1, active, len(active), middle, rows, *arguments, p.y)
    assert np.all(p.y[:middle] == 3)
    axpy_long_columns(p.arena.data, p.arena.table, 1, active, len(active), 0, middle, *arguments, p.y)
    np.testing.assert_array_equal(p.y[:rows], whole)
    assert np.allclose(whole[: sizes[0]], 3 + p.expected(), rtol=1e-5, atol=1e-5)
    if form in {"f32", "bf16"}:  # one order of sums in both kernels
        short, acc = np.full(rows, 3, np.float32), np.zeros(rows, np.int32)
        axpy_columns(p.arena.data, p.arena.table, 1, active, 0, len(active), *arguments, acc, short)
        np.testing.assert_array_equal(short, whole)


@FORMS
@settings(max_examples=25, deadline=None)
@given(SIZES, st.integers(0, 2**32))
def test_rows_are_the_products_of_the_rows_that_were_listed(form, sizes, seed):
    p = Problem(form, "rows", *sizes, seed)
    rows = np.random.default_rng(seed).integers(0, sizes[0], 7).astype(np.int32)
    y = np.full(8, 77, np.float32)
    dot_rows(p.arena.data, p.arena.table, 1, rows, 0, 7, p.x, p.aq, p.ascale, p.asum, y)
    p.assert_close(y[:7], p.expected()[rows], rows)
    assert y[7] == 77


@LAID_OUT
@pytest.mark.parametrize("sizes", [(1, 1), (16, 32), (50, 96), (130, 75), (20, 650)])
def test_reading_back_gives_the_dequantised_weights_to_the_bit(form, layout, sizes):
    p = Problem(form, layout, *sizes, 5)
    everything = np.zeros(sizes, np.float32)
    read_rows(p.arena.data, p.arena.table, 1, np.arange(sizes[0]), everything)
    expected = dequantise(p.weights)
    # Fused multiply and add rounds once where NumPy rounds twice.
    np.testing.assert_allclose(everything, expected, rtol=0, atol=2e-8 if form == "q4m" else 0)
    some, rows = np.array([sizes[0] - 1, 0]), np.zeros((2, sizes[1]), np.float32)
    read_rows(p.arena.data, p.arena.table, 1, some, rows)
    np.testing.assert_array_equal(rows, everything[some])


@LAID_OUT
@pytest.mark.parametrize(("first", "last"), [(0, 150), (64, 128), (128, 150)])
def test_the_transpose_has_the_same_weights(form, layout, first, last):
    p = Problem(form, layout, 150, 75, 5)
    out = np.full((75, -(-(last - first) // 64) * 64), np.float32(9))
    unpack_transposed(p.arena.data, p.arena.table, 1, first, last, out)
    found = out[:, : last - first].T
    np.testing.assert_allclose(found, dequantise(p.weights)[first:last], rtol=0, atol=2e-8 if form == "q4m" else 0)


@pytest.mark.parametrize("form", ["q8", "q4"])
@pytest.mark.parametrize("layout", ["panels", "columns", "rows"])
def test_products_of_integers_are_exact_at_the_ends_of_their_range(form, layout):
    """Scales of 1 make everything an integer below 2**24: one saturated or missing product would show."""
    rng = np.random.default_rng(0)
    outputs, inputs = 70, 128
    low, high = (-127, 128) if form == "q8" else (0, 16)
    codes = rng.integers(low, high, (outputs, inputs)).astype(np.int8 if form == "q8" else np.uint8)
    codes[:20], codes[20:40] = low, high - 1
    p = Problem(form, layout, outputs, inputs, 0)
    p.weights = Quantised(form, inputs, codes, np.ones((outputs, inputs // 32), np.float16))
    p.arena.store(1, p.weights)
    p.aq[:], p.ascale[:] = rng.choice([-127, 127], inputs), 1
    p.asum[:] = p.aq.reshape(-1, 32).sum(1, dtype=np.int32)
    data, table = p.arena.data, p.arena.table
    if layout == "panels":
        dot_panels(data, table, 1, 0, 5, p.x, p.aq, p.ascale, p.asum, p.y)
    elif layout == "rows":
        dot_rows(data, table, 1, np.arange(70, dtype=np.int32), 0, 70, p.x, p.aq, p.ascale, p.asum, p.y)
    else:
        acc = np.zeros(len(p.y), np.int32)
        every = np.arange(128, dtype=np.int32)
        axpy_columns(data, table, 1, every, 0, 128, p.x, p.aq, p.ascale, acc, p.y)
        long = np.zeros(len(p.y), np.float32)
        axpy_long_columns(data, table, 1, every, 128, 0, 128, p.x, p.aq, p.ascale, long)
        np.testing.assert_array_equal(long, p.y)
    np.testing.assert_array_equal(p.y[:outputs], p.expected())


@settings(max_examples=25, deadline=None)
@given(st.tuples(st.integers(1, 100), st.one_of(st.integers(1, 200), st.integers(500, 1200))), st.integers(0, 2**32))
def test_planes_are_the_product_by_leading_bits_and_what_is_left_of_it(sizes, seed):
    p = Problem("q8", "planes", *sizes, seed)
    panels, data, table = -(-sizes[0] // 16), p.arena.data, p.arena.table
    high, guess = np.full((2, len(p.y)), 77, np.float32)
    dot_high(data, table, 1, 0, panels, p.aq, p.ascale, p.asum, high, guess)
    scales = np.repeat(p.weights.scales.astype(np.float64), 32, axis=1)[:, : sizes[1]]
    upper, lower = np.divmod(p.weights.codes[:, : sizes[1]].astype(np.int64), 16)
    p.assert_close(high[: sizes[0]], (scales * upper * 16) @ p.input_seen)
    p.assert_close(guess[: sizes[0]], (scales * (upper * 16 + 7.5)) @ p.input_seen)
    assert np.all(high[16 * panels :] == 77)
    spread = np.zeros_like(p.aq)
    spread_input(p.aq, len(p.aq), spread)
    rows, low = np.random.default_rng(seed).integers(0, sizes[0], 5).astype(np.int32), np.zeros(5, np.float32)
    add_low(data, table, 1, rows, 0, 5, spread, p.ascale, low)
    p.assert_close(low, ((scales * lower) @ p.input_seen)[rows], rows)
    p.assert_close(high[rows] + low, p.expected()[rows], rows)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 200), st.sets(st.integers(0, 31), min_size=1), st.integers(0, 2**32))
def test_the_columns_of_one_block_are_what_columns_are(outputs, members, seed):
    active = np.array(sorted(members), np.int32) + 32
    p = Problem("q8", "columns", outputs, 96, seed, active=active)
    p.y[:] = 3
    room = np.zeros(32, np.int64), np.zeros(32, np.int8)
    axpy_block(p.arena.data, p.arena.table, 1, active, 0, len(active), p.aq, p.ascale, *room, p.y)
    assert np.allclose(p.y[:outputs], 3 + p.expected(), rtol=1e-5, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 130), st.integers(0, 2**32), st.sampled_from([1e-30, 1.0, 1e30]))
def test_inputs_are_rounded_as_numpy_rounds_them(n, seed, size):
    x = np.zeros(160, np.float32)
    x[:n] = np.random.default_rng(seed).standard_normal(n) * size
    aq, ascale, asum = np.full(160, 9, np.int8), np.full(5, 9, np.float32), np.full(5, 9, np.int32)
    quantise_input(x, n, aq, ascale, asum)
    blocks = -(-n // 32)
    wide = x.reshape(-1, 32)[:blocks]
    most = np.abs(wide).max(1, keepdims=True)
    expected = np.rint(wide * (np.float32(127) / most)) if most.all() else np.zeros_like(wide)
    np.testing.assert_array_equal(aq[: 32 * blocks].reshape(-1, 32), expected)
    np.testing.assert_allclose(ascale[:blocks], most[:, 0] / 127, rtol=2e-7)
    np.testing.assert_array_equal(asum[:blocks], expected.sum(1))
    assert np.all(aq[32 * blocks :] == 9)


def test_an_input_of_zeros_has_the_scale_zero():
    aq, ascale, asum = np.full(32, 9, np.int8), np.full(1, 9, np.float32), np.full(1, 9, np.int32)
    quantise_input(np.zeros(32, np.float32), 32, aq, ascale, asum)
    assert not aq.any()
    assert ascale[0] == 0
    assert asum[0] == 0

"""The formulas of docstrings, found and set."""

import pytest

CHESS = "CHESS: score = |act(gate)| * RMS(up), one threshold per layer, so one per channel.\n\nHe et al. 2024."
GXO = "Gradient x output: s = -mean_d(g x), to first order the loss.\n"
LATER = "First look: guess every neuron, finish some.\n\nOurs.\n\n    score = |x| * ||W_down,i||\n\nis it."


@pytest.mark.parametrize(
    ("docstring", "title", "formula", "rule", "source"),
    [
        (CHESS, "CHESS", "score = |act(gate)| * RMS(up)", "one threshold per layer, so one per channel.", ""),
        (GXO, "Gradient x output", "s = -mean_d(g x)", "to first order the loss.", ""),
        (LATER, "First look", "score = |x| * ||W_down,i||", "guess every neuron, finish some.", ""),
        ("Random: s ~ U(0, 1), the control.", "Random", "s ~ U(0, 1)", "the control.", ""),
        ("SNIP: s = |mean(g x)|; or not.", "SNIP", "s = |mean(g x)|", "or not.", ""),
        ("IG: s = x g, g a mean (Su et al. 2017, eq. 3).", "IG", "s = x g", "g a mean.", "Su et al. 2017, eq. 3"),
        ("Size: s = |x| (Song et al. 2024). No label.", "Size", "s = |x|", "No label.", "Song et al. 2024"),
        ("Nothing to see", "Nothing to see", "", "", ""),
    ],
)
def test_a_docstring_is_taken_apart(docstring, title, formula, rule, source):
    from formulas import first_line

    assert first_line(docstring) == (title, formula, rule, source)


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        ("|x| * ||W_column||", r"\lvert x\rvert \cdot \lVert W_{\mathrm{column}}\rVert"),
        ("|| [ |h_ti| / ||h_t|| ]_t ||", r"\lVert \,[\,\lvert h_{ti}\rvert /\lVert h_{t}\rVert \,]_{t}\,\rVert"),
        ("sqrt(up^2 + error_up^2)", r"\sqrt{\operatorname{up}^{2}+\operatorname{error}_{\mathrm{up}}^{2}}"),
        ("s = -mean_d(g x)", r"s=-\operatorname{mean}_{d}(g\,x)"),
    ],
)
def test_a_formula_is_set(plain, expected):
    from formulas import latex

    assert latex(plain) == expected


@pytest.mark.parametrize("plain", ["|x", "(x", "x)", "|(x|)", "sqrt(x]"])
def test_what_does_not_pair_up_is_refused(plain):
    from formulas import latex

    with pytest.raises(ValueError, match=r"open|closes"):
        latex(plain)

import pickle

import pytest

from sparseact.errors import InputError, MissingExtraError, SparseactError, UnsupportedModelError, unknown_name

METRICS = ["magnitude", "gxo", "corrected-gxo"]


def test_message_names_option_and_found_and_nearest_and_valid():
    error = unknown_name("metrics: unknown metric", "gox", METRICS)
    assert str(error) == "metrics: unknown metric 'gox'. Did you mean gxo? Valid: magnitude, gxo, corrected-gxo."


def test_option_alone_gets_a_noun():
    assert str(unknown_name("units", "mpl", ["mlp", "heads"])).startswith("units: unknown value 'mpl'.")


@pytest.mark.parametrize("found", ["Corrected-GxO", "correctedgxo", "corrected-gx"])
def test_nearest_name_is_found_whatever_the_case(found):
    assert "Did you mean corrected-gxo?" in str(unknown_name("metrics", found, METRICS))


def test_nothing_is_suggested_for_a_name_that_resembles_none():
    assert "Did you mean" not in str(unknown_name("metrics", "perplexity", METRICS))


def test_valid_names_may_come_from_an_iterator():
    assert "Did you mean gxo? Valid: magnitude, gxo, corrected-gxo." in str(unknown_name("m", "gx", iter(METRICS)))


def test_a_users_mistake_is_a_value_error_and_ours():
    for error in (UnsupportedModelError("x"), MissingExtraError("pandas", "sweep")):
        assert isinstance(error, InputError)
        assert isinstance(error, ValueError)
        assert isinstance(error, SparseactError)


def test_missing_extra_says_what_to_install():
    message = str(MissingExtraError("pandas", "sweep"))
    assert message == "pandas is not installed; it comes with: pip install 'sparseact[sweep]'"


def test_errors_cross_process_boundaries():
    error = pickle.loads(pickle.dumps(InputError("limit: 0 is not positive")))
    assert (type(error), str(error)) == (InputError, "limit: 0 is not positive")

"""A little training, so that a model wants to be sparse; and the primitives that it stands on."""

from sparseact.training.options import METHODS_WITHOUT_RULE, Options, methods
from sparseact.training.train_model import Trained, train

__all__ = ["METHODS_WITHOUT_RULE", "Options", "Trained", "methods", "train"]

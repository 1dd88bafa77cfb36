"""Text from a model, whatever runs it."""

from sparseact.generation.backend import Backend as Backend
from sparseact.generation.generated import Generated as Generated
from sparseact.generation.sampling import Sampling as Sampling

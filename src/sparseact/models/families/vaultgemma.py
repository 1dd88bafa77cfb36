"""VaultGemma: a Gemma 2 without the norms after attention and MLP."""

from dataclasses import replace

from sparseact.models.architecture import Architecture
from sparseact.models.families import gemma2, llama
from sparseact.models.families.base import Family
from sparseact.models.families.config import Config


def _read(config: Config) -> Architecture:
    return replace(gemma2.read_2(config), post_norms=False)


FAMILY = Family(
    "vaultgemma",
    llama.LAYOUT,
    architecture=_read,
    naming=gemma2.NAMING,
    tiny={"vaultgemma": gemma2.TINY | {"num_key_value_heads": 4}},
)

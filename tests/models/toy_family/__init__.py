"""A family for the test of `FAMILIES`: a linear function of the last input step of each tile."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "configuration_toy_family": ["ToyFamilyConfig"],
        "modeling_toy_family": ["ToyFamilyForPrediction"],
    },
)

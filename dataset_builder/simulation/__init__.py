"""A small simulated Sun: timelines, frames and FITS files with the amplitudes, noise and gaps of the real data."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from .fits import fits_files as fits_files
    from .fits import write_observations as write_observations
    from .observations import SimulatedObservations as SimulatedObservations
    from .observations import expected_timeline as expected_timeline
    from .observations import simulate_observations as simulate_observations
    from .timelines import SIMULATED_REGIONS as SIMULATED_REGIONS
    from .timelines import Emergence as Emergence
    from .timelines import emergence as emergence
    from .timelines import simulate_region as simulate_region
    from .timelines import write_simulated as write_simulated

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "fits": ["fits_files", "write_observations"],
        "observations": ["SimulatedObservations", "expected_timeline", "simulate_observations"],
        "timelines": ["SIMULATED_REGIONS", "Emergence", "emergence", "simulate_region", "write_simulated"],
    },
)

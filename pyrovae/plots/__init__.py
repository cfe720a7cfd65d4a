"""Every picture, each a function that returns a matplotlib ``Figure``; nothing is shown, saved or set globally.

Pictures are built on ``Figure`` itself, never on pyplot, which would choose a backend and keep every figure alive.
They are made for a page 7.6 inches wide, and whatever a colour says, a shape, a fill or a line style says too.
"""

from pyrovae.plots.board import scoreboard
from pyrovae.plots.bounds import sandwich
from pyrovae.plots.criticism import calibration, predictive_check
from pyrovae.plots.curves import training_curves
from pyrovae.plots.latents import latents
from pyrovae.plots.manifolds import clouds_and_manifolds, manifold
from pyrovae.plots.posteriors import posterior_contours
from pyrovae.plots.reconstructions import reconstructions, sigma_maps, strips
from pyrovae.plots.samples import samples
from pyrovae.plots.tradeoffs import fid_by_epoch, rate_distortion

__all__ = [
    "calibration",
    "clouds_and_manifolds",
    "fid_by_epoch",
    "latents",
    "manifold",
    "posterior_contours",
    "predictive_check",
    "rate_distortion",
    "reconstructions",
    "samples",
    "sandwich",
    "scoreboard",
    "sigma_maps",
    "strips",
    "training_curves",
]

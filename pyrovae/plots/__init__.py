"""Every picture, each a function that returns a matplotlib ``Figure``; nothing is shown, saved or set globally.

Pictures are built on ``Figure`` itself, never on pyplot, which would choose a backend and keep every figure alive.
They are made for a page 7.6 inches wide, and whatever a colour says, a shape, a fill or a line style says too.
"""

from pyrovae.plots.board import scoreboard as scoreboard
from pyrovae.plots.bounds import sandwich as sandwich
from pyrovae.plots.criticism import calibration as calibration, predictive_check as predictive_check
from pyrovae.plots.curves import training_curves as training_curves
from pyrovae.plots.latents import latents as latents
from pyrovae.plots.manifolds import clouds_and_manifolds as clouds_and_manifolds, manifold as manifold
from pyrovae.plots.posteriors import posterior_contours as posterior_contours
from pyrovae.plots.reconstructions import reconstructions as reconstructions, sigma_maps as sigma_maps, strips as strips
from pyrovae.plots.samples import samples as samples
from pyrovae.plots.tradeoffs import fid_by_epoch as fid_by_epoch, rate_distortion as rate_distortion

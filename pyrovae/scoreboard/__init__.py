"""Models side by side on held-out data: the rows, the candidates, the report and the folder of results."""

from pyrovae.scoreboard.comparison import Scoreboard, compare
from pyrovae.scoreboard.rows import Row

__all__ = ["Row", "Scoreboard", "compare"]

"""Models side by side on held-out data: the rows, the candidates, the report and the folder of results."""

from pyrovae.scoreboard.comparison import Scoreboard as Scoreboard, compare as compare
from pyrovae.scoreboard.rows import Row as Row

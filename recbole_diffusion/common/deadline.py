"""When a command must have ended."""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

import psutil

from ..errors import OutOfTime
from .setting import Setting

# What took a time may take so much longer the next time.
SLACK = 1.1


class Deadline(NamedTuple):
    """The end of a command.

    at : float or None
        Seconds since 1970; None is never.
    """

    at: float | None = None

    @classmethod
    def read(cls, text: str | None) -> Deadline:
        """The end that a setting names, seen from the start of this process.

        Parameters
        ----------
        text : str or None
            Minutes from the start, the first such time of day after it (08:40, local), or a date and time as ISO 8601
            has it (local, unless it says from where).

        Raises
        ------
        ValueError
            For any other text.
        """
        if text is None:
            return cls()
        start = psutil.Process().create_time()
        if "T" in text:
            return cls(datetime.fromisoformat(text).timestamp())
        if ":" not in text:
            return cls(start + 60 * float(text))
        begin = datetime.fromtimestamp(start)
        clock = datetime.strptime(text, "%H:%M")
        end = begin.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
        return cls((end if end > begin else end + timedelta(days=1)).timestamp())

    def text(self) -> str | None:
        """As `read` takes it in another process, on a machine of another time zone too."""
        return None if self.at is None else datetime.fromtimestamp(self.at, timezone.utc).isoformat()

    def sooner(self, seconds: float) -> Deadline:
        """So many seconds before."""
        return Deadline(None if self.at is None else self.at - seconds)

    def left(self) -> float:
        """Seconds until then."""
        return math.inf if self.at is None else self.at - time.time()

    def require(self, seconds: float, what: str) -> None:
        """Refuse to begin what takes so many seconds, and may take a little longer.

        Raises
        ------
        OutOfTime
        """
        left = self.left()
        if left <= 0:
            raise OutOfTime("deadline: no time is left")
        if left < SLACK * seconds:
            raise OutOfTime(f"deadline: {left:.0f} s are left, and {what} takes {seconds:.0f} s")


def _names_a_time(text: str) -> bool:
    try:
        Deadline.read(text).text()
        return ":" in text or float(text) > 0
    except (ValueError, OverflowError):
        return False


SETTING = Setting("str or ~", "be minutes such as 15, or a time of day such as 08:40", _names_a_time)

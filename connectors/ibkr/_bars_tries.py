"""What becomes of one request for bars: an answer, another try after a pause, or an error. No wire, no waiting."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from connectors.ibkr._bars_answer import BarsAnswer, answer_of, no_bars
from connectors.ibkr._bars_link import Answered, Lost, Outcome, Refused
from connectors.ibkr.errors import BadAnswer, BarsTimeout, BarsUnavailable, bars_refusal

if TYPE_CHECKING:
    from connectors.ibkr.bar_requests import BarsRequest

_log = logging.getLogger("connectors.ibkr.bars")

_MOST_LOSSES: Final = 10
_MOST_BAD_ANSWERS: Final = 2
_LONGEST_PAUSE_S: Final = 120.0


@dataclass(frozen=True)
class TryRules:
    """How often and how soon a request is asked again.

    Attributes:
        timeout_s: Longest wait for one answer.
        attempts: How often a request is asked that is not answered, or cannot be answered now.
        backoff_s: Pause before the second attempt, then doubled, shortened by up to a quarter.
        again_s: The same when the gateway said that it cannot answer now.
    """

    timeout_s: float
    attempts: int
    backoff_s: float
    again_s: float


class Tries:
    """The tries of one request so far."""

    def __init__(self, request: BarsRequest, rules: TryRules) -> None:
        self._request = request
        self._rules = rules
        self._attempts = 0
        self._losses = 0
        self._bad_answers = 0

    def judge(self, outcome: Outcome | None, asked_at_ns: int) -> BarsAnswer | float:
        """Return the answer, or the seconds to wait before the next try.

        Args:
            outcome: Of the last try, but not a pacing violation; None when its time ran out.
            asked_at_ns: When it was sent, nanoseconds since 1970 UTC.

        Raises:
            IbkrError: There is no use in another try; as `BarsSession.fetch`.
        """
        if isinstance(outcome, Lost):
            return self._lost(outcome)
        self._attempts += 1
        if outcome is None:
            return self._late()
        if isinstance(outcome, Answered):
            return self._answered(outcome, asked_at_ns)
        if outcome.rule.kind == "no_data":
            return no_bars(self._request, asked_at_ns=asked_at_ns, attempts=self._attempts)
        if outcome.rule.kind == "again":
            return self._not_now(outcome)
        raise bars_refusal(str(self._request), self._request.symbol, outcome.code, outcome.text)

    @property
    def _is_last(self) -> bool:
        return self._attempts >= self._rules.attempts

    def _lost(self, outcome: Lost) -> float:
        self._losses += 1
        if self._losses >= _MOST_LOSSES:
            # It may be this request that the gateway falls over.
            raise BarsUnavailable(
                f"{self._request}: the connection was lost {self._losses} times while it was open, at last: "
                f"{outcome.why}; try again later",
                symbol=self._request.symbol,
            )
        return 0.0

    def _late(self) -> float:
        if self._is_last:
            raise BarsTimeout(
                f"{self._request}: no answer in {self._rules.timeout_s:g} s, {self._attempts} times; "
                "try again later, or set a longer time-out",
                symbol=self._request.symbol,
            )
        _log.warning("%s: no answer in %g s, it is asked again", self._request, self._rules.timeout_s)
        return self._pause_s(self._rules.backoff_s)

    def _answered(self, outcome: Answered, asked_at_ns: int) -> BarsAnswer | float:
        try:
            return answer_of(self._request, outcome.fields, asked_at_ns=asked_at_ns, attempts=self._attempts)
        except BadAnswer as error:
            self._bad_answers += 1
            if self._is_last or self._bad_answers >= _MOST_BAD_ANSWERS:
                raise
            _log.warning("%s; it is asked again", error)
        return self._pause_s(self._rules.backoff_s)

    def _not_now(self, outcome: Refused) -> float:
        said = f"{self._request}: {outcome.rule.meaning} {outcome.code} ({outcome.text})"
        if self._is_last:
            raise BarsUnavailable(
                f"{said}, {self._attempts} times; try again later", symbol=self._request.symbol, code=outcome.code
            )
        _log.warning("%s, it is asked again", said)
        return self._pause_s(self._rules.again_s)

    def _pause_s(self, first_s: float) -> float:
        longest_s = min(_LONGEST_PAUSE_S, first_s * 2.0 ** min(self._attempts - 1, 10))
        return longest_s * random.uniform(0.75, 1.0)  # noqa: S311 - keeps requests apart, guards nothing

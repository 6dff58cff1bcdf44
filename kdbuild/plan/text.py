"""The plan for people."""

from __future__ import annotations

from collections.abc import Iterator

from kdbuild.plan.asks import Asks, Bound, bound_of
from kdbuild.plan.causes import Reason
from kdbuild.plan.planner import Planned, Status
from kdbuild.plan.whole import Plan

_MAX_CAUSES = 6


def lines(plan: Plan) -> Iterator[str]:
    """Yield the plan line by line, the totals last."""
    shown = plan.of(Status.STALE, Status.MAYBE, Status.RESTORABLE)
    asks = {one.stage: one for one in plan.asks}
    width = max((len(one.stage.name) for one in shown), default=0)
    for one in shown:
        yield f"{one.stage.name:<{width}}  {one.status.value}"
        yield from (f"    {line}" for line in _causes(one))
        if one.stage.name in asks:
            yield f"    {_asked(asks[one.stage.name])}"
    if shown:
        yield ""
    yield from _compiling(plan)
    fresh = len(plan.of(Status.FRESH))
    if fresh:
        yield f"{_number(fresh, 'stage')} fresh"
    yield totals(plan)


def totals(plan: Plan) -> str:
    """Return the last line: stages, calls, tokens, money."""
    stale, maybe, restorable = (len(plan.of(status)) for status in (Status.STALE, Status.MAYBE, Status.RESTORABLE))
    if plan.is_fresh:
        return "nothing to do"
    extra = [f"{maybe} that may"] if maybe else []
    extra += [f"{restorable} restored from the cache"] if restorable else []
    stages = f"{_number(stale, 'stage')} to run" + "".join(f", {part}" for part in extra)
    return f"{stages}; {calls(plan.least_calls, plan.most_calls)}{_cost(plan)}"


def _cost(plan: Plan) -> str:
    if not plan.num_calls:
        return ""
    tokens = sum(one.prompt_tokens + one.answer_tokens for one in plan.asks)
    return f" ({about(plan.bound)} {tokens:,} tokens, {money(sum(one.usd for one in plan.asks))})"


def paid_for(plan: Plan) -> tuple[str, str] | None:
    """Return whom the build asks for money, and for how much; None where it asks nobody who costs any."""
    paid = [asks for asks in plan.asks if asks.priced and asks.most_calls != 0]
    if not paid:
        return None
    most = None if any(asks.most_calls is None for asks in paid) else sum(asks.most_calls or 0 for asks in paid)
    bound = bound_of(sum(asks.least_calls for asks in paid), most)
    what = "an amount that is not known yet" if bound is Bound.UNKNOWN else f"{about(bound)} {money(sum(asks.usd for asks in paid))}"
    return ", ".join(sorted({asks.teacher for asks in paid})), what


def about(bound: Bound) -> str:
    """Return the words before an estimate that goes with a number of calls."""
    return "about" if bound is Bound.EXACT else f"{bound.value} about"


def money(usd: float) -> str:
    """Return an amount of US dollars, small ones with two significant digits."""
    return f"${usd:.2f}" if usd >= 1 or not usd else f"${usd:.2g}"


def calls(least: int, most: int | None) -> str:
    """Return a number of calls in words: exact, from the least to the most, up to the most, at least the least, or unknown."""
    bound = bound_of(least, most)
    if bound is Bound.UNKNOWN:
        return "an unknown number of teacher calls"
    if most is None:
        return f"at least {_number(least, 'teacher call')}"
    between = "" if bound is Bound.EXACT else f"{least:,} to " if least else "up to "
    return f"{between}{_number(most, 'teacher call')}"


def _asked(asks: Asks) -> str:
    asked = f"asks {asks.teacher}: {calls(asks.least_calls, asks.most_calls)}"
    if asks.rows is None:
        return asked
    rows = asks.rows
    return f"{asked}; rows: {rows.new} new, {rows.changed} changed, {rows.removed} removed, {rows.reused} reused"


def _causes(one: Planned) -> Iterator[str]:
    own = [cause.text() for cause in one.causes if cause.reason is not Reason.UPSTREAM]
    yield from own[:_MAX_CAUSES]
    if len(own) > _MAX_CAUSES:
        yield f"and {len(own) - _MAX_CAUSES} more (--json shows all)"
    upstream = [cause.subject for cause in one.causes if cause.reason is Reason.UPSTREAM]
    if upstream and not any(cause.reason is Reason.NEVER_BUILT for cause in one.causes):
        yield f"reads what {', '.join(upstream)} may change"


def _compiling(plan: Plan) -> Iterator[str]:
    compiling = [one for one in plan.planned if one.stage.compiles and one.status is not Status.FRESH]
    if compiling:
        because = sorted({cause.subject for one in compiling for cause in one.causes if cause.reason is Reason.INPUT})
        yield f"compile: {', '.join(one.stage.name for one in compiling)}" + (f" ({', '.join(because)} changed)" if because else "")
    if plan.rewrites:
        yield f"to be written by `kdbuild build` or `kdbuild compile`: {', '.join(plan.rewrites)}"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"

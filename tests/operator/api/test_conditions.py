from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from florence_operator.api.conditions import set_condition
from florence_operator.api.status import Condition

steps = st.lists(
    st.tuples(
        st.sampled_from(["Ready", "Stalled"]),
        st.sampled_from([True, False, None]),
        st.sampled_from(["A", "B"]),
        st.text(max_size=1100),
    ),
    max_size=20,
)


@given(steps)
def test_the_time_moves_only_when_the_status_flips(
    steps: list[tuple[str, bool | None, str, str]],
) -> None:
    conditions: tuple[Condition, ...] = ()
    flipped: dict[str, tuple[bool | None, str]] = {}
    for number, (kind, status, reason, message) in enumerate(steps):
        now = f"t{number}"
        before = [condition.type for condition in conditions]
        conditions = set_condition(
            conditions,
            type=kind,
            status=status,
            reason=reason,
            message=message,
            generation=number,
            now=now,
        )
        if kind not in flipped or flipped[kind][0] != status:
            flipped[kind] = (status, now)
        found = {condition.type: condition for condition in conditions}[kind]
        assert found.last_transition_time == flipped[kind][1]
        assert (found.reason, found.observed_generation) == (reason, number)
        assert found.message == message or len(found.message) == 1024
        order = [condition.type for condition in conditions]
        assert order[: len(before)] == before
        assert len(set(order)) == len(order)

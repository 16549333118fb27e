"""A call placed with a test key never reaches a provider that rings anybody."""

from dataclasses import replace

from cualify_dialer.gate import Dial, Never, decide
from tests.dialer.histories import T0, a_call as waiting_call


def test_a_test_call_goes_to_the_simulator_or_nowhere() -> None:
    call = waiting_call()
    tried = replace(call, request=call.request.model_copy(update={"test": True}))
    at = max(T0, call.next_at)
    assert decide(call, now=at, busy=(), providers={"bolna"}) == Dial()
    assert decide(tried, now=at, busy=(), providers={"bolna"}) == Never("no_simulator")
    assert decide(tried, now=at, busy=(), providers={"bolna"}, simulators={"bolna"}) == Dial()

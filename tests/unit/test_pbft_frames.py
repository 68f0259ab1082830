"""A short run of the fuzzer of frames, from another start each time; `python -m fuzz.frames` is the long one."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.frames import run


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_frame_of_a_validator_that_lies_stops_the_others_or_fills_their_memory(seed: int) -> None:
    refused = run(400, seed, lambda line: None)
    assert refused["malformed"] and refused["bad_signature"]

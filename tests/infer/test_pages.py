"""Pages: what is shared, copied, kept and given back."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama3_jax.infer.pages import PagePool


def filled(pool: PagePool, prompt: list[int], num_tokens: int):
    """A lease whose prompt is computed."""
    lease = pool.lease(prompt, num_tokens)
    assert lease is not None
    pool.publish(lease, prompt)
    return lease


def test_rows_that_begin_alike_hold_the_same_pages():
    pool = PagePool(20, 4)
    first = filled(pool, [1, 2, 3, 4, 5, 6, 7, 8, 9], 12)
    second = filled(pool, [1, 2, 3, 4, 5, 6, 7, 8, 10], 16)
    assert second.pages[:2] == first.pages[:2] and not set(second.pages[2:]) & set(first.pages)
    assert (second.cached, second.copy) == (8, None)
    assert pool.held == 3 + 2
    pool.check()


def test_where_rows_part_within_a_page_the_second_starts_from_a_copy():
    pool = PagePool(20, 4)
    first = filled(pool, [1, 2, 3, 4, 5, 6, 7], 12)
    second = pool.lease([1, 2, 3, 4, 5, 6, 8, 9], 12)
    assert second is not None and second.cached == 6
    assert second.copy == (first.pages[1], second.pages[1]) and second.pages[1] != first.pages[1]
    pool.check()


def test_a_prompts_last_token_is_always_computed():
    pool = PagePool(20, 4)
    filled(pool, [1, 2, 3, 4], 8)
    second = pool.lease([1, 2, 3, 4], 8)
    assert second is not None and second.cached == 3 and second.copy is not None
    assert pool.cached_tokens([1, 2, 3, 4]) == 3 and pool.cached_tokens([1, 2, 3, 4, 5]) == 4


def test_pages_that_nobody_holds_are_found_again_until_their_place_is_needed():
    pool = PagePool(4, 4)
    pool.release(filled(pool, [1, 2, 3, 4, 5, 6], 8))
    assert pool.available == 4 and pool.cached_tokens([1, 2, 3, 4, 5, 6, 7]) == 6
    other = filled(pool, list(range(10, 22)), 12)
    assert pool.cached_tokens([1, 2, 3, 4, 5, 6, 7]) == 4  # the last page went first
    pool.release(other)
    assert pool.lease(list(range(30, 46)), 16) is not None
    assert pool.cached_tokens([1, 2, 3, 4, 5, 6, 7]) == 0
    pool.check()


def test_a_lease_that_does_not_fit_changes_nothing():
    pool = PagePool(3, 4)
    held = filled(pool, [1, 2, 3, 4, 5], 8)
    assert pool.lease([1, 2, 3, 4, 9], 13) is None  # one shared, three more wanted, one there
    assert pool.held == 2
    assert pool.lease([1, 2, 3, 4, 9], 8) is not None
    pool.release(held)
    pool.check()


def test_two_that_computed_the_same_page_at_once_keep_their_own():
    pool = PagePool(8, 2)
    left, right = pool.lease([1, 2, 3], 4), pool.lease([1, 2, 3], 4)
    assert left is not None and right is not None and not set(left.pages) & set(right.pages)
    pool.publish(left, [1, 2, 3])
    pool.publish(right, [1, 2, 3])
    pool.check()
    pool.release(left)
    pool.check()
    pool.release(right)
    pool.check()
    assert pool.available == 8


def test_without_sharing_no_page_is_held_twice():
    pool = PagePool(8, 2, share=False)
    left, right = filled(pool, [1, 2, 3, 4, 5], 6), filled(pool, [1, 2, 3, 4, 5], 6)
    assert not set(left.pages) & set(right.pages) and right.cached == 0


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0)])
def test_a_cache_without_room_is_refused(sizes):
    with pytest.raises(ValueError, match="pages of at least one token"):
        PagePool(*sizes)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("lease"), st.lists(st.integers(0, 1), min_size=1, max_size=12), st.integers(0, 6)),
        st.tuples(st.just("publish"), st.integers(0, 9), st.integers(1, 18)),
        st.tuples(st.just("release"), st.integers(0, 9), st.just(0)),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=300)
@given(events=EVENTS, page_size=st.integers(1, 4))
def test_nothing_leaks_and_a_match_is_true_after_any_events(events, page_size):
    """Pages hold what their leases wrote; a lease that starts with cached tokens finds just these in its pages."""
    pool = PagePool(12, page_size)
    memory: dict[tuple[int, int], int] = {}
    held: list[tuple] = []  # (lease, all its tokens, how many are computed)

    def write(lease, tokens, start, end):
        for place in range(start, end):
            memory[lease.pages[place // page_size], place % page_size] = tokens[place]

    for kind, argument, number in events:
        if kind == "lease":
            lease = pool.lease(argument, len(argument) + number)
            if lease is not None:
                if lease.copy:
                    source, target = lease.copy
                    for place in range(page_size):
                        memory[target, place] = memory.get((source, place), -1)
                found = [memory[lease.pages[place // page_size], place % page_size] for place in range(lease.cached)]
                assert found == argument[: lease.cached] and lease.cached < len(argument)
                held.append((lease, [*argument, *([2] * number)], lease.cached))
        elif held and kind == "publish":
            index = argument % len(held)
            lease, tokens, computed = held[index]
            end = min(len(tokens), max(computed, number))
            write(lease, tokens, computed, end)
            pool.publish(lease, tokens[:end])
            held[index] = (lease, tokens, end)
        elif held:
            pool.release(held.pop(argument % len(held))[0])
        pool.check()
    for lease, _, _ in held:
        pool.release(lease)
    pool.check()
    assert pool.held == 0

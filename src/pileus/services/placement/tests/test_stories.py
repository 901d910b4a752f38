"""The behaviour of placement's API, told as stories."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.services.placement.tests.storytelling import stories, tell
from pileus.testing.alone import in_loop

STORIES = dict(stories())


@pytest.mark.parametrize("name", STORIES)
def test_a_story_ends_as_it_is_told(name: str) -> None:
    @in_loop
    async def run(story: dict[str, Any]) -> None:
        await tell(story)

    run(STORIES[name])


def test_no_two_stories_have_one_name() -> None:
    assert len(STORIES) == len(list(stories()))

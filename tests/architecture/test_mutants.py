"""The lies that `make mutate` tells are lies."""

from __future__ import annotations

import ast

from tests.mutation.mutants import lies, told

SOURCE = """
async def f(a, b):
    '''Says something.'''
    log.info("not a lie")
    if a == 3 and not a:
        raise ValueError(a)
    await undo(a)
    b += 1
    c = b - 1 if a else b
    return True
"""


def test_each_lie_changes_the_code_in_one_place() -> None:
    tree = ast.parse(SOURCE)
    honest = ast.unparse(tree)
    texts = [told(SOURCE, lie) for lie in lies(tree)]
    assert len(set(texts)) == len(texts) and honest not in texts
    assert all(len(set(text.splitlines()) ^ set(honest.splitlines())) <= 3 for text in texts)


def test_rules_checks_undos_and_counts_are_all_lied_about() -> None:
    assert sorted(lie.what for lie in lies(ast.parse(SOURCE))) == [
        "be off by one",
        "count the other way",
        "count the other way",
        "drop a not",
        "flip a comparison",
        "leave a call out",
        "raise nothing",
        "return the other truth",
        "swap and with or",
        "take the other branch",
        "turn a condition round",
    ]

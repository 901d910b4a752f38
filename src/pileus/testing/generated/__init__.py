"""Tests that need no line per service: made from what services declare, for whatever `find_services` finds.

`policies` and `access` ask who may, `states` what must answer 409, `sagas` whether anything leaks.
"""

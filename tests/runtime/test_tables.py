"""Short answers: a table on a terminal, JSON lines in a pipe."""

import json

from okxcli.runtime.tables import render, write_rows

ROWS = [
    {"symbol": "BTC-USDT", "rows": 1234567, "fresh": True, "age": None, "price": "102537.9", "names": ["a", "b"]},
    {"symbol": "X", "rows": 5, "fresh": False, "age": 3, "price": "9.5", "names": []},
]


def test_a_table_is_aligned_numbers_to_the_right():
    """Whole numbers get thousands separators and line up on the right; what is unknown is a dash."""
    assert render(ROWS) == [
        "symbol         rows  fresh  age  price     names",
        "BTC-USDT  1,234,567  yes      -  102537.9  a, b",
        "X                 5  no       3  9.5",
    ]
    assert render([]) == []


def test_a_pipe_gets_json_lines(capsys):
    """Nothing is rounded, grouped or left out in a pipe."""
    write_rows(ROWS)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS
    write_rows(ROWS, table=True)
    assert capsys.readouterr().out.splitlines() == render(ROWS)
    write_rows([])
    assert capsys.readouterr().out == ""

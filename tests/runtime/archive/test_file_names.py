"""Names of files by time: what a template gives, what it finds again, and templates that are none."""

from datetime import UTC, datetime
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okxcli.errors import UsageError
from okxcli.runtime.archive.file_names import FileNames

NOW = 1_747_087_163_557  # 2025-05-12 21:59:23.557


@pytest.mark.parametrize(
    ("template", "first", "third", "end"),
    [
        ("r/%Y-%m-%d/%H.jsonl.zst", "r/2025-05-12/21.jsonl.zst", "r/2025-05-12/21_03.jsonl.zst", "2025-05-12T22:00"),
        ("%Y%m%d.gz", "20250512.gz", "20250512_03.gz", "2025-05-13"),
        ("a.b.%Y%m%d%H%M", "a.b.202505122159", "a.b.202505122159_03", "2025-05-12T22:00"),
        ("x/%Y/%m/all.jsonl", "x/2025/05/all.jsonl", "x/2025/05/all_03.jsonl", "2025-06-01"),
        ("100%%/%Y.d/v1.2.jsonl", "100%/2025.d/v1_03.2.jsonl", None, "2026-01-01"),
    ],
)  # fmt: skip
def test_a_name_is_that_of_its_time(template, first, third, end):
    """In UTC, the next files of one span behind the first; until the span is over."""
    names = FileNames(template)
    found = [str(path) for path in islice(names.paths(NOW), 3)]
    assert found[2] == third or (third is None and found[2] == first)
    if third is not None:
        assert found[0] == first
    assert names.end_ms(NOW) == round(datetime.fromisoformat(end).replace(tzinfo=UTC).timestamp() * 1000)


@given(st.integers(1_500_000_000_000, 4_000_000_000_000), st.sampled_from("YmdHM"))
@settings(max_examples=300)
def test_a_span_ends_where_the_next_name_begins(ms, finest):
    """The last moment before the end has the same name, the end itself has another."""
    parts = "YmdHM"[: "YmdHM".index(finest) + 1]
    names = FileNames("_".join(f"%{part}" for part in parts))
    end = names.end_ms(ms)
    first = next(names.paths(ms))
    assert next(names.paths(end - 1)) == first != next(names.paths(end))
    assert ms < end


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("raw.jsonl", "no time in it"),
        ("%%Y", "no time in it"),
        ("%Y/%Q", "%Q is no part of a name"),
        ("%Y-%", "% is no part of a name"),
        ("%H.jsonl", "%H needs %Y %m %d too"),
        ("%Y-%d", "%d needs %m too"),
    ],
)
def test_templates_that_are_none(template, reason):
    """Each is told why."""
    with pytest.raises(UsageError) as told:
        FileNames(template)
    assert reason in str(told.value)


def test_a_path_without_times_is_a_file():
    """Whatever else stands in it; a letter behind a percent sign is meant as a time."""
    files, templates = ("a.jsonl", "50%.jsonl", "100%%", "%5"), ("%Y", "%q")
    assert not any(map(FileNames.asked_for, files))
    assert all(map(FileNames.asked_for, templates))


def test_files_are_found_again(tmp_path, monkeypatch):
    """Those of the template alone, the oldest first, also where the folder has a strange name, or none is given."""
    folder = tmp_path / "[a]*"
    for name in ("2025-05-12/21", "2025-05-12/21_02", "2025-05-12/21_10", "2025-05-11/23", "2025-05-12/20"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jsonl").touch()
    for name in ("2025-05-12/2.jsonl", "2025-05-12/21_x.jsonl", "2025-05-12/21.jsonl.gz", "other/21.jsonl"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / "2025-05-12" / "22.jsonl.part").touch()
    (folder / "2025-05-12" / "23.jsonl.torn").touch()
    wanted = ["2025-05-11/23", "2025-05-12/20", "2025-05-12/21", "2025-05-12/21_02", "2025-05-12/21_10"]
    names = FileNames(f"{folder}/%Y-%m-%d/%H.jsonl")
    assert [str(path) for path in names.whole()] == [f"{folder}/{name}.jsonl" for name in wanted]
    assert [path.name for path in names.left_over()] == ["23.jsonl.torn", "22.jsonl.part"]
    assert names.root() == folder
    monkeypatch.chdir(folder)
    assert [str(path) for path in FileNames("./%Y-%m-%d/%H.jsonl").whole()] == [f"{name}.jsonl" for name in wanted]


def test_a_name_that_is_taken_has_a_neighbour(tmp_path):
    """Whatever number it has itself."""
    names = FileNames(f"{tmp_path}/%Y.jsonl")
    for name in ("2025.jsonl", "2025_02.jsonl"):
        (tmp_path / name).touch()
    assert names.free(tmp_path / "2025.jsonl").name == names.free(tmp_path / "2025_02.jsonl").name == "2025_03.jsonl"
    assert names.free(tmp_path / "2026.jsonl").name == "2026.jsonl"

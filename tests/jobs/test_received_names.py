import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomdl.jobs.received_names import file_name, instance_of, name_of

uids = st.lists(st.integers(0, 10**9), min_size=1, max_size=6).map(
    lambda parts: ".".join(map(str, parts))
)


@given(uids)
def test_a_uid_names_its_file_and_is_read_from_the_name(uid: str) -> None:
    assert file_name(uid) == f"{uid}.dcm"
    assert instance_of(file_name(uid)) == uid


@given(st.text())
def test_a_name_of_any_text_is_one_component_that_every_system_takes(text: str) -> None:
    for level in ("study", "series", "instance"):
        name = name_of(level, text)  # type: ignore[arg-type]
        assert name.isascii() and 0 < len(name) <= 64
        assert set(name) <= set("0123456789abcdefghijklmnopqrstuvwxyz.-")
        assert not name.startswith(".") and ".." not in name


@pytest.mark.parametrize(
    "name",
    ["1.2", "1.2.dcm.part", "instance-0f.dcm", ".dcm", "1..2.dcm", "1.2-0f.dcm", "\u0661.dcm"],
)
def test_other_names_are_those_of_no_instance(name: str) -> None:
    assert instance_of(name) == ""

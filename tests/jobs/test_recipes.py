"""recipes: every key is known, every value has its type, and an error names the line."""

from pathlib import Path

import pytest

from dicomdl.errors import StorageError, UsageError
from dicomdl.jobs.recipes.choosing import intensity_of
from dicomdl.jobs.recipes.named import recipe_path, shipped_recipes
from dicomdl.jobs.recipes.reading import plain_values, read_recipe, recipe_of
from dicomdl.jobs.recipes.recipe import SplitRule, Table
from dicomdl.values.normalisation import Clip, ZScore

TEXT = """\
name: heads   # a comment
select: [modality=CT, slices>=20]
tables:
  - path: labels.csv
    on: {patient_id: patient}
    lists: [x, y]
  - {path: more.csv, on: SOPInstanceUID, label: grade}
split:
  fractions: [0.8, 0.2]
  stratify: grade
resampling: {spacing: [1, 1, 1]}
intensity: [{clip: [-100, 300]}, {z_score: []}]
"""


def written(folder: Path, text: str = TEXT) -> str:
    """Write a recipe."""
    path = folder / "r.yaml"
    path.write_text(text)
    return str(path)


def test_a_recipe_is_read_with_its_defaults_and_survives_plain_values(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path))
    assert recipe.select == ("modality=CT", "slices>=20")
    assert recipe.tables[0] == Table("labels.csv", {"patient_id": "patient"}, lists=["x", "y"])
    assert recipe.tables[1].on == "SOPInstanceUID"
    assert recipe.split == SplitRule((0.8, 0.2), stratify="grade")
    assert (recipe.output.to, recipe.output.shard_bytes) == ("webdataset", 256 * 2**20)
    assert recipe_of(plain_values(recipe)) == recipe
    assert intensity_of(recipe.intensity) == (Clip(-100, 300), ZScore())


def test_changes_reach_values_lists_and_what_the_file_lacks(tmp_path: Path) -> None:
    changes = ["tables.1.path=b.csv", "output.to=nnunet", "split.k=5", "split.fractions=[]"]
    recipe = read_recipe(written(tmp_path), [*changes, "card.tags=[a, 'b']", "labels.source=SEG"])
    assert recipe.tables[1].path == "b.csv"
    assert recipe.output.to == "nnunet"
    assert recipe.split == SplitRule(k=5, stratify="grade")
    assert recipe.card.tags == ("a", "b")
    assert recipe.labels is not None
    assert recipe.labels.source == "SEG"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("select:", "selec:", r"r.yaml, line 2: selec: unknown key: did you mean 'select'\?"),
        ("lists:", "list:", r"line 6: tables\[0\].list: unknown key: did you mean 'lists'\?"),
        ("spacing:", "qq:", r"line 11: resampling.qq: unknown key: expected spacing, size, "),
        ("[0.8, 0.2]", "most", r"line 9: split.fractions: expected a list of numbers, not a text"),
        ("path: labels.csv", "x: 1", r"line 4: tables\[0\].x: unknown key"),
        ("  - path: labels.csv\n", "  -\n", r"line 5: tables\[0\]: the key 'path' is absent"),
        ("name:", "description:", r"line 1: the key 'name' is absent"),
        ("select:", "name:", r"line 2: the key 'name' is there twice"),
        ("[modality=CT, ", "[modality=CT, {", r"line \d+: no YAML"),
        ("name: heads", "- heads", r"r.yaml, line 2: no YAML|expected keys and values"),
    ],
)
def test_an_error_names_the_file_the_line_the_key_and_a_suggestion(
    tmp_path: Path, before: str, after: str, message: str
) -> None:
    assert before in TEXT
    with pytest.raises(UsageError, match=message):
        read_recipe(written(tmp_path, TEXT.replace(before, after, 1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("split.kk=5", r"--set split.kk: split.kk: unknown key: did you mean 'k'\?"),
        ("split.k=many", r"--set split.k: split.k: expected a whole number or nothing, not a text"),
        ("split", "expected key=value"),
        ("=5", "expected key=value"),
        ("tables.7.path=a", "expected a number below 2"),
        ("name.first=a", "'name' is a value without keys"),
        ("split.k=[", "--set split.k, line 1: no YAML"),
    ],
)
def test_an_error_of_a_change_names_the_change(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_recipe(written(tmp_path), [change])


@pytest.mark.parametrize("text", ["", "a: &a [*a]", "\0", "x: !!python/object:os.system {}"])
def test_odd_files_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises((UsageError, StorageError)):
        read_recipe(written(tmp_path, text))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("labels=SEG", r"labels: expected keys and values \(source, .*\) or nothing, not a text"),
        ("labels.source=[SEG]", "labels.source: expected a text, not a list"),
        ("labels.align=near", "labels.align: expected nearest or exact, not 'near'"),
        ("labels.rois=GTV", "labels.rois: expected a list of texts, keys and values or nothing"),
        ("tables.0.on={a: 1}", r"tables\[0\].on\[...\]: expected a text, not a whole number"),
        ("tables.0.lists=[1]", r"tables\[0\].lists\[0\]: expected a text, not a whole number"),
        ("stacks=regular", r"stacks: expected keys and values \(verdicts, irregular, one_per\)"),
        ("stacks.one_per=1.5", "one_per: expected '', patient, study or series, not a number"),
        ("repairs=[x]", r"repairs\[0\]: expected signed_ct, not 'x'"),
        ("tables=a.csv", r"tables: expected a list of keys and values \(path, on, .*, not a text"),
        ("resampling.size=true", "size: expected a whole number, a list of whole numbers or noth"),
    ],
)
def test_a_value_of_the_wrong_kind_says_what_may_stand_there(
    tmp_path: Path, change: str, message: str
) -> None:
    changes = [change] if change.startswith("labels=") else ["labels.source=SEG", change]
    with pytest.raises(UsageError, match=message) as raised:
        read_recipe(written(tmp_path), changes)
    assert "`" not in str(raised.value)


def test_a_missing_recipe_names_a_similar_one(tmp_path: Path) -> None:
    assert recipe_path(written(tmp_path)) == str(tmp_path / "r.yaml")
    with pytest.raises(UsageError, match="neither a file nor a name"):
        recipe_path(str(tmp_path / "absent.yaml"))


def test_all_shipped_recipes_are_valid() -> None:
    for name, path in shipped_recipes().items():
        recipe = read_recipe(path)
        assert recipe.description, name


@pytest.mark.parametrize("given", [{}, {"clip": [0, 1], "z_score": []}, {"clap": [0, 1]}])
def test_an_intensity_that_is_none_is_said(given: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="expected a name"):
        intensity_of(given)

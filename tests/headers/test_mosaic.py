"""mosaic: slices of mosaics, UIH grids and NM volumes get their true position, or none."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import phantoms
import phantoms_multi
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless, RLELossless

from dicomdl.headers._planes import Plane
from dicomdl.headers._siemens import csa_diffusion, protocol_slices, read_csa, siemens_tiling
from dicomdl.headers.columns import Constant
from dicomdl.headers.frame import Frame
from dicomdl.headers.reader import HeaderReader, read_frames
from dicomdl.jobs.engine import read_chunk
from dicomdl.pixels.read import read_frame

SHAPE, SPACING, ORIGIN = (7, 6, 8), (4.0, 1.5, 2.0), (-10, 20, 30)
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)
SAGITTAL = (0, 1, 0, 0, 0, -1)


def positions(frames: list[Frame]) -> NDArray[np.float64]:
    return np.array([frame.image_position_patient for frame in frames])


def assert_is_the_ramp(
    frames: list[Frame], shape: tuple[int, int, int] = SHAPE, orientation: Any = (1, 0, 0, 0, 1, 0)
) -> None:
    """Each frame is the slice of the ramp that belongs at its position."""
    truth = phantoms.true_positions(shape[0], SPACING, ORIGIN, orientation)
    assert len(frames) == shape[0]
    found = set()
    for frame in frames:
        distances = np.linalg.norm(truth - np.array(frame.image_position_patient), axis=1)
        z = int(distances.argmin())
        assert distances[z] < 1e-6
        np.testing.assert_array_equal(read_frame(frame), phantoms.ramp(shape)[z])
        found.add(z)
    assert len(found) == shape[0]


# --- Siemens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("descending", [False, True], ids=["first slice first", "last slice first"])
@pytest.mark.parametrize(
    "orientation", [(1, 0, 0, 0, 1, 0), OBLIQUE, SAGITTAL], ids=["axial", "oblique", "sagittal"]
)
@pytest.mark.parametrize("csa", [1, 2])
def test_every_tile_lies_where_its_slice_lies(
    tmp_path: Path, csa: Any, orientation: Any, descending: bool
) -> None:
    path = phantoms_multi.write_mosaic(
        tmp_path / "m.dcm", csa=csa, orientation=orientation, descending=descending
    )
    frames = read_frames(path)
    assert_is_the_ramp(frames, orientation=orientation)
    first = frames[0]
    assert {(f.frame_number, f.rows, f.columns, f.coded_rows, f.coded_columns) for f in frames} == {
        (1, 6, 8, 18, 24)
    }
    assert [(f.tile_top, f.tile_left) for f in frames] == [
        (0, 0),
        (0, 8),
        (0, 16),
        (6, 0),
        (6, 8),
        (6, 16),
        (12, 0),
    ]
    assert first.image_orientation_patient == pytest.approx(orientation)


@pytest.mark.parametrize(
    "syntax",
    [*phantoms.NATIVE_SYNTAXES, RLELossless, JPEGLSLossless],
    ids=lambda syntax: syntax.name,
)
def test_a_mosaic_of_any_transfer_syntax_is_unpacked(tmp_path: Path, syntax: Any) -> None:
    assert_is_the_ramp(
        read_frames(phantoms_multi.write_mosaic(tmp_path / "m.dcm", transfer_syntax=syntax))
    )


@pytest.mark.parametrize("descending", [False, True], ids=["first slice first", "last slice first"])
def test_the_protocol_places_the_tiles_where_the_image_header_was_removed(
    tmp_path: Path, descending: bool
) -> None:
    def without_creators(dataset: Dataset, _: int) -> None:
        del dataset[0x00290010], dataset[0x00190010], dataset[0x0019100A]

    path = phantoms_multi.write_mosaic(
        tmp_path / "m.dcm",
        csa=0,
        series_header=True,
        descending=descending,
        orientation=OBLIQUE,
        edit=without_creators,
    )
    assert_is_the_ramp(read_frames(path), orientation=OBLIQUE)


def test_the_protocol_counts_where_the_slice_normal_points_out_of_the_volume(
    tmp_path: Path,
) -> None:
    path = phantoms_multi.write_mosaic(
        tmp_path / "m.dcm",
        series_header=True,
        descending=True,
        entries={"SliceNormalVector": [0, 0, 1]},
    )
    assert_is_the_ramp(read_frames(path))


def test_the_slice_normal_counts_where_the_head_has_moved_away_from_the_protocol(
    tmp_path: Path,
) -> None:
    def moved(dataset: Dataset, _: int) -> None:
        dataset.ImagePositionPatient = [
            float(v) + d for v, d in zip(dataset.ImagePositionPatient, (0, 0, 3.0), strict=True)
        ]

    path = phantoms_multi.write_mosaic(tmp_path / "m.dcm", series_header=True, edit=moved)
    np.testing.assert_allclose(
        positions(read_frames(path)), phantoms.true_positions(7, SPACING, (-10, 20, 33)), atol=1e-6
    )


def _element(tag: int, vr: str, value: Any) -> Callable[[Dataset, int], None]:
    return lambda dataset, _: dataset.add_new(tag, vr, value)


def _without(*tags: int) -> Callable[[Dataset, int], None]:
    def edit(dataset: Dataset, _: int) -> None:
        for tag in tags:
            del dataset[tag]

    return edit


UNPLACEABLE: dict[str, dict[str, Any]] = {
    "no CSA header": {"csa": 0},
    "no slice spacing": {"edit": _without(0x00180088)},
    "slice spacing 0": {"edit": _element(0x00180088, "DS", "0")},
    "negative slice spacing": {"edit": _element(0x00180088, "DS", "-4")},
    "no orientation": {"edit": _without(0x00200037)},
    "orientation of length 2": {"edit": _element(0x00200037, "DS", [2, 0, 0, 0, 2, 0])},
    "no position": {"edit": _without(0x00200032)},
    "no pixel spacing": {"edit": _without(0x00280030)},
    "two counts": {"entries": {"NumberOfImagesInMosaic": [6]}},
    "no tile": {"entries": {"NumberOfImagesInMosaic": [0]}, "count_tag": False},
    "a million tiles": {"entries": {"NumberOfImagesInMosaic": [1000000]}, "count_tag": False},
    "more tiles than fit": {"entries": {"NumberOfImagesInMosaic": [48]}, "count_tag": False},
    "a count that is no number": {
        "entries": {"NumberOfImagesInMosaic": ["many"]},
        "count_tag": False,
    },
    "no slice normal": {"entries": {"SliceNormalVector": []}},
    "a slice normal of NaN": {"entries": {"SliceNormalVector": ["nan", "nan", "nan"]}},
    "a slice normal of 0": {"entries": {"SliceNormalVector": [0, 0, 0]}},
    "a slice normal that is another direction": {"entries": {"SliceNormalVector": [0, 0.1, 0.995]}},
    "rows that the grid does not divide": {"edit": lambda dataset, _: _crop(dataset)},
    "a CSA header that is cut": {"edit": lambda dataset, _: _cut(dataset[0x00291010])},
    "a CSA header of 2 thousand million entries": {
        "edit": _element(0x00291010, "OB", b"SV10\4\3\2\1\xff\xff\xff\x7f" + bytes(100))
    },
}


def _crop(dataset: Dataset) -> None:
    dataset.Rows = 17
    dataset.PixelData = dataset.PixelData[: 17 * 24 * 2]


def _cut(element: pydicom.DataElement) -> None:
    element.value = element.value[:200]


@pytest.mark.parametrize("name", UNPLACEABLE)
def test_a_mosaic_that_cannot_be_placed_stays_whole_and_has_no_position(
    tmp_path: Path, name: str
) -> None:
    (frame,) = read_frames(phantoms_multi.write_mosaic(tmp_path / "m.dcm", **UNPLACEABLE[name]))
    assert frame.image_position_patient is None
    assert (frame.coded_rows, frame.columns) == (0, 24)
    expected = phantoms_multi.tiled(phantoms.ramp(SHAPE))
    np.testing.assert_array_equal(read_frame(frame), expected[: frame.rows])


def test_an_enhanced_file_that_is_called_a_mosaic_is_none(tmp_path: Path) -> None:
    # The image type is that of syngo MR XA30.
    def edit(dataset: Dataset, _: int) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]

    frames = read_frames(
        phantoms.write_multiframe(tmp_path / "e.dcm", modality="MR", shape=(3, 5, 7), edit=edit)
    )
    assert [frame.coded_rows for frame in frames] == [0, 0, 0]
    assert None not in [frame.image_position_patient for frame in frames]


def test_diffusion_facts_come_from_the_csa_header_where_nothing_else_has_them(
    tmp_path: Path,
) -> None:
    entries = {"B_value": [1000], "DiffusionGradientDirection": [0.6, 0, 0.8]}
    frames = read_frames(phantoms_multi.write_mosaic(tmp_path / "m.dcm", entries=entries))
    assert {(f.siemens_b_value, f.siemens_diffusion_direction) for f in frames} == {
        (1000, (0.6, 0.0, 0.8))
    }

    def as_slice(dataset: Dataset, _: int) -> None:
        dataset.ImageType, dataset.SequenceName = ["ORIGINAL", "PRIMARY", "M", "ND"], "*ep_b1000#3"

    (frame,) = read_frames(
        phantoms_multi.write_mosaic(tmp_path / "s.dcm", entries=entries, edit=as_slice)
    )
    assert (frame.siemens_b_value, frame.siemens_diffusion_direction) == (1000, (0.6, 0.0, 0.8))
    assert frame.image_position_patient is not None


def test_a_csa_header_reads_as_nibabel_reads_it_in_both_versions() -> None:
    csareader = pytest.importorskip("nibabel.nicom.csareader")
    entries = {"A": [1], "B_value": [800], "SliceNormalVector": [0.1, -0.2, 0.3], "Empty": []}
    raw = phantoms_multi.csa_header(entries)
    theirs = csareader.read(raw)["tags"]
    ours = read_csa(raw)
    assert [float(v) for v in ours["SliceNormalVector"]] == theirs["SliceNormalVector"]["items"]
    assert [float(v) for v in ours["B_value"]] == theirs["B_value"]["items"]
    # nibabel 5.3 fails on the first version.
    assert read_csa(phantoms_multi.csa_header(entries, version=1)) == ours


@pytest.mark.slow
def test_no_damage_to_a_csa_header_or_a_protocol_raises() -> None:
    raw = phantoms_multi.csa_header(
        {"NumberOfImagesInMosaic": [7], "SliceNormalVector": [0, 0, 1], "B_value": [5]}
    )
    series = phantoms_multi.csa_series_header(phantoms.true_positions(7, SPACING, ORIGIN))
    plane = Plane(18, 24, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (1.0, 1.0), 4.0)
    rng = np.random.default_rng(0)
    for _ in range(3000):
        damaged = [bytearray(raw), bytearray(series)]
        for part in damaged:
            for at in rng.integers(0, len(part), rng.integers(1, 5)):
                part[at] = rng.choice(
                    [0, 1, 0x7F, 0x80, 0xFF, ord("9"), ord("e"), rng.integers(256)]
                )
        csa = read_csa(bytes(damaged[0][: rng.integers(len(raw) // 2, len(raw) + 1)]))
        csa_diffusion(csa)
        tiling = siemens_tiling(plane, None, csa, protocol_slices(bytes(damaged[1])))
        assert tiling is None or (
            tiling.rows * tiling.columns * len(tiling.tiles) <= 18 * 24
            and np.isfinite(tiling.tiles[-1].position).all()
        )


def test_a_count_of_one_is_one_slice(tmp_path: Path) -> None:
    assert_is_the_ramp(
        read_frames(phantoms_multi.write_mosaic(tmp_path / "m.dcm", shape=(1, 6, 8))),
        shape=(1, 6, 8),
    )


def test_tiles_are_rows_of_the_table_with_one_frame_number(tmp_path: Path) -> None:
    phantoms_multi.write_mosaic(tmp_path / "m.dcm")
    phantoms.write_series(tmp_path / "slices", shape=(2, 5, 7))
    paths = sorted(os.fsencode(path) for path in tmp_path.rglob("*") if path.is_file())
    _, frames, problems, _ = read_chunk(HeaderReader(), paths)
    assert len(problems) == 0
    tops = frames.numbers("tile_top")
    assert sorted(tops.tolist()) == [0] * 5 + [6] * 3 + [12]
    assert frames.numbers("frame_number").tolist() == [1] * 9
    assert sorted(frames.numbers("coded_rows").tolist()) == [0, 0] + [18] * 7


# --- UIH ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "syntax", [*phantoms.NATIVE_SYNTAXES, RLELossless], ids=lambda syntax: syntax.name
)
def test_the_tiles_of_a_uih_grid_lie_where_their_items_say(tmp_path: Path, syntax: Any) -> None:
    path = phantoms_multi.write_uih_grid(
        tmp_path / "g.dcm", transfer_syntax=syntax, orientation=OBLIQUE
    )
    assert_is_the_ramp(read_frames(path), orientation=OBLIQUE)


@pytest.mark.parametrize("slices", [1, 2, 3, 11, 12, 20, 25])
def test_a_uih_grid_has_only_the_rows_of_tiles_that_its_slices_need(
    tmp_path: Path, slices: int
) -> None:
    path = phantoms_multi.write_uih_grid(tmp_path / "g.dcm", shape=(slices, *SHAPE[1:]))
    assert_is_the_ramp(read_frames(path), (slices, *SHAPE[1:]))


@pytest.mark.parametrize("count", ["8", "0", "1000000"])
def test_a_uih_grid_that_contradicts_itself_stays_whole_without_a_position(
    tmp_path: Path, count: str
) -> None:
    (frame,) = read_frames(phantoms_multi.write_uih_grid(tmp_path / "g.dcm", count=count))
    assert frame.image_position_patient is None
    assert (frame.rows, frame.coded_rows) == (18, 0)


def test_a_uih_grid_without_its_private_group_has_no_position(tmp_path: Path) -> None:
    edit = _without(0x00650010, 0x00651050, 0x00651051)
    (frame,) = read_frames(phantoms_multi.write_uih_grid(tmp_path / "g.dcm", edit=edit))
    assert frame.image_position_patient is None


def test_a_uih_grid_with_a_position_that_is_no_number_stays_whole(tmp_path: Path) -> None:
    def edit(dataset: Dataset, _: int) -> None:
        dataset[0x00651051].value[3].ImagePositionPatient = ["1", "2"]

    (frame,) = read_frames(phantoms_multi.write_uih_grid(tmp_path / "g.dcm", edit=edit))
    assert frame.image_position_patient is None


# --- reconstructed volumes of nuclear medicine ----------------------------------------------------


@pytest.mark.parametrize("descending", [False, True], ids=["positive spacing", "negative spacing"])
@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), OBLIQUE], ids=["axial", "oblique"])
def test_the_sign_of_the_spacing_says_where_the_slices_of_an_nm_volume_lie(
    tmp_path: Path, orientation: Any, descending: bool
) -> None:
    path = phantoms_multi.write_nm_volume(
        tmp_path / "n.dcm",
        shape=SHAPE,
        spacing=SPACING,
        orientation=orientation,
        descending=descending,
    )
    frames = read_frames(path)
    assert_is_the_ramp(frames, orientation=orientation)
    assert frames[0].image_orientation_patient == pytest.approx(orientation)
    assert [frame.frame_number for frame in frames] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("descending", [False, True], ids=["positive spacing", "negative spacing"])
def test_an_nm_volume_lies_where_simpleitk_puts_it(tmp_path: Path, descending: bool) -> None:
    sitk = pytest.importorskip("SimpleITK")
    path = phantoms_multi.write_nm_volume(tmp_path / "n.dcm", descending=descending)
    image, frames = sitk.ReadImage(str(path)), read_frames(path)
    theirs = [image.TransformIndexToPhysicalPoint((0, 0, k)) for k in range(len(frames))]
    np.testing.assert_allclose(positions(frames), theirs, atol=1e-9)


def test_the_time_slots_of_a_gated_nm_volume_lie_on_one_another(tmp_path: Path) -> None:
    path = phantoms_multi.write_nm_volume(
        tmp_path / "n.dcm", spacing=SPACING, time_slots=3, image_type="RECON GATED TOMO"
    )
    frames = read_frames(path)
    np.testing.assert_allclose(
        positions(frames), np.tile(phantoms.true_positions(6, SPACING, ORIGIN), (3, 1)), atol=1e-9
    )
    assert [frame.time_slot_vector for frame in frames] == [1] * 6 + [2] * 6 + [3] * 6


@pytest.mark.parametrize(
    "edit",
    [
        _without(0x00180088),
        _without(0x00540080),
        _without(0x00540022),
        _element(0x00540080, "US", [0, 1, 2, 3, 4, 5]),
    ],
    ids=["no spacing", "no slice vector", "no detector", "slice 0"],
)
def test_an_nm_volume_whose_slices_cannot_be_placed_has_no_positions(
    tmp_path: Path, edit: Any
) -> None:
    frames = read_frames(phantoms_multi.write_nm_volume(tmp_path / "n.dcm", edit=edit))
    assert [frame.image_position_patient for frame in frames] == [None] * 6


@pytest.mark.parametrize("kind", ["STATIC", "WHOLE BODY", "GATED", "TOMO"])
def test_nm_images_that_are_no_slices_get_no_geometry(tmp_path: Path, kind: str) -> None:
    frames = read_frames(phantoms_multi.write_nm_volume(tmp_path / "n.dcm", image_type=kind))
    assert {
        (frame.image_position_patient, frame.image_orientation_patient) for frame in frames
    } == {(None, None)}


# --- enhanced objects -----------------------------------------------------------------------------


def test_an_ultrasound_volume_has_its_positions_in_its_own_frame_of_reference(
    tmp_path: Path,
) -> None:
    path = phantoms_multi.write_us_volume(
        tmp_path / "u.dcm", shape=SHAPE, spacing=SPACING, orientation=OBLIQUE, times=(0.0, 40.0)
    )
    frames = read_frames(path)
    truth = phantoms.true_positions(7, SPACING, ORIGIN, OBLIQUE)
    for frame in frames:
        time, z = (int(value) - 1 for value in frame.dimension_index_values or ())
        np.testing.assert_allclose(frame.image_position_volume, truth[z])
        assert frame.image_orientation_volume == OBLIQUE
        assert frame.temporal_position_time_offset == (0.0, 40.0)[time]
        assert frame.image_position_patient is None
        np.testing.assert_array_equal(read_frame(frame), phantoms.ramp(SHAPE)[z] + 1000 * time)
    assert frames[0].volume_frame_of_reference_uid and not frames[0].frame_of_reference_uid


def test_private_groups_that_hold_positions_of_their_own_disturb_no_frame(tmp_path: Path) -> None:
    def edit(dataset: Dataset, _: int) -> None:
        for group in dataset.PerFrameFunctionalGroupsSequence:
            private = Dataset()
            private.ImagePositionPatient, private.EchoTime, private.PixelSpacing = (
                [9, 9, 9],
                99,
                [9, 9],
            )
            inner = Dataset()
            inner.PlanePositionSequence = phantoms.item(ImagePositionPatient=[8, 8, 8])
            for creator, element in (
                ("Philips MR Imaging DD 005", 0x0F),
                ("SIEMENS MR SDI 02", 0x10),
            ):
                group.private_block(0x2005, creator, create=True).add_new(
                    element, "SQ", [private, inner]
                )

    path = phantoms.write_multiframe(
        tmp_path / "e.dcm", modality="MR", shape=SHAPE, spacing=SPACING, origin=ORIGIN, edit=edit
    )
    frames = read_frames(path)
    truth = phantoms.true_positions(7, SPACING, ORIGIN)
    for frame in frames:
        z = (frame.in_stack_position_number or 0) - 1
        np.testing.assert_allclose(frame.image_position_patient, truth[z])
        np.testing.assert_array_equal(read_frame(frame), phantoms.ramp(SHAPE)[z])
    assert {frame.pixel_spacing for frame in frames} == {(1.5, 2.0)}
    assert {frame.echo_time for frame in frames} == {None}


@pytest.mark.parametrize(
    "keyword",
    [
        "EnhancedPETImageStorage",
        "BreastTomosynthesisImageStorage",
        "XRay3DAngiographicImageStorage",
    ],
)
def test_shared_and_per_frame_groups_count_in_every_enhanced_object(
    tmp_path: Path, keyword: str
) -> None:
    def edit(dataset: Dataset, _: int) -> None:
        dataset.SOPClassUID = getattr(pydicom.uid, keyword)
        shared = dataset.SharedFunctionalGroupsSequence[0]
        # The attribute is in both groups: that of the frame has priority.
        for k, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            group.PixelMeasuresSequence = shared.PixelMeasuresSequence
            group.FrameContentSequence[0].FrameReferenceDateTime = f"202001021011{k:02d}"
        shared.PixelMeasuresSequence = phantoms.item(PixelSpacing=[7, 7])

    frames = read_frames(
        phantoms.write_multiframe(
            tmp_path / "e.dcm", shape=SHAPE, spacing=SPACING, origin=ORIGIN, edit=edit
        )
    )
    assert {frame.pixel_spacing for frame in frames} == {(1.5, 2.0)}
    assert [frame.frame_reference_date_time for frame in frames] == [
        f"202001021011{k:02d}" for k in range(7)
    ]
    truth = phantoms.true_positions(7, SPACING, ORIGIN)
    for frame in frames:
        z = (frame.in_stack_position_number or 0) - 1
        np.testing.assert_allclose(frame.image_position_patient, truth[z])


@pytest.mark.parametrize("enhanced", [False, True], ids=["classic", "enhanced"])
def test_the_energy_of_a_monoenergetic_image_is_found(tmp_path: Path, enhanced: bool) -> None:
    def edit(dataset: Dataset, _: int) -> None:
        where = dataset.SharedFunctionalGroupsSequence[0] if enhanced else dataset
        where.MultienergyCTCharacteristicsSequence = phantoms.item(
            MonoenergeticEnergyEquivalent=70.0
        )

    if enhanced:
        path = phantoms.write_multiframe(tmp_path / "e.dcm", edit=edit)
    else:
        path = phantoms.write_series(tmp_path / "c", shape=(1, 5, 7), edit=edit)[0]
    assert {frame.monoenergetic_energy_equivalent for frame in read_frames(path)} == {70.0}


@pytest.mark.slow
def test_damaged_files_of_every_packing_each_give_a_header_and_sound_tiles(tmp_path: Path) -> None:
    writers = {
        "mosaic": lambda path: phantoms_multi.write_mosaic(path, series_header=True),
        "grid": phantoms_multi.write_uih_grid,
        "nm": phantoms_multi.write_nm_volume,
        "us": phantoms_multi.write_us_volume,
    }
    originals = [write(tmp_path / name).read_bytes() for name, write in writers.items()]
    rng = np.random.default_rng(1)
    reader = HeaderReader()
    for number in range(2400):
        raw = bytearray(originals[number % len(originals)])
        for at in rng.integers(132, len(raw) - 700, rng.integers(1, 4)):
            raw[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, ord("9"), ord("\\"), rng.integers(256)])
        content = bytes(raw[: rng.choice([len(raw), len(raw), rng.integers(200, len(raw))])])
        header = reader.parse(
            content,
            len(content),
            lambda offset, length, content=content: content[offset : offset + length],
        )
        assert len(header.places) == len(header.rows) == len(header.frame_numbers)
        assert len(header.tiles) in (0, len(header.rows))
        columns = reader.convert(header.rows) if header.rows else {}
        heights = columns["rows"] if header.tiles else []
        heights = [heights.value] * len(header.tiles) if isinstance(heights, Constant) else heights
        for tile, height in zip(header.tiles, heights, strict=True):
            assert 0 <= tile.tile_top <= tile.coded_rows - height


# --- the corpus, against references of other projects ---------------------------------------------

MOSAICS = {
    "neurolabusc+dcm_qa_nih/In/20180918Si/mr_0003": "neurolabusc+dcm_qa_nih/Ref",
    "neurolabusc+dcm_qa_stc/In/Siemens/B12": "neurolabusc+dcm_qa_stc/Ref",
    "neurolabusc+dcm_qa_me/In/4_me_fMRI": "neurolabusc+dcm_qa_me/Ref",
}


def world_to_voxel(image: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 3) LPS mm to fractional (x, y, z) of a SimpleITK image, which is LPS, too."""
    direction = np.array(image.GetDirection()).reshape(-1, image.GetDimension())[:3, :3]
    matrix = direction * np.array(image.GetSpacing())[:3]
    return np.asarray((points - np.array(image.GetOrigin())[:3]) @ np.linalg.inv(matrix).T)


def misplaced(frames: list[Frame], image: Any, volume: NDArray[Any]) -> float:
    """The largest distance in mm between a tile's voxels and those of the volume (z, y, x).

    Voxels correspond by their values; the result is inf if values differ.
    """
    worst = 0.0
    for frame in frames:
        first, orientation = (
            np.array(frame.image_position_patient),
            np.array(frame.image_orientation_patient),
        )
        down, right = np.array(frame.pixel_spacing)[:, None] * orientation.reshape(2, 3)[::-1]
        rows, columns = np.indices((frame.rows, frame.columns)).reshape(2, -1)
        voxels = world_to_voxel(image, first + rows[:, None] * down + columns[:, None] * right)
        nearest = np.rint(voxels).astype(int)
        worst = max(
            worst, float((np.abs(voxels - nearest) * np.array(image.GetSpacing())[:3]).max())
        )
        if (nearest < 0).any() or (nearest >= np.array(volume.shape)[::-1]).any():
            return float("inf")
        if not np.array_equal(
            volume[nearest[:, 2], nearest[:, 1], nearest[:, 0]], read_frame(frame).ravel()
        ):
            return float("inf")
    return worst


@pytest.mark.corpus
@pytest.mark.parametrize("folder", MOSAICS)
def test_mosaics_of_the_corpus_are_the_volumes_of_their_references(
    corpus: Path, folder: str
) -> None:
    sitk = pytest.importorskip("SimpleITK")
    references = [str(path) for path in sorted((corpus / MOSAICS[folder]).rglob("*.nii*"))]
    images = [(image, sitk.GetArrayFromImage(image)) for image in map(sitk.ReadImage, references)]
    volumes = [(i, v) for i, a in images for v in (a if a.ndim == 4 else a[None])]
    files = sorted(path for path in (corpus / folder).rglob("*") if path.is_file())
    assert files
    for path in files:
        frames = read_frames(path)
        assert len(frames) > 1
        fitting = [
            (i, v)
            for i, v in volumes
            if v.shape == (len(frames), frames[0].rows, frames[0].columns)
        ]
        assert min((misplaced(frames, i, v) for i, v in fitting), default=float("inf")) < 0.02, (
            path.name
        )


@pytest.mark.corpus
def test_a_reversed_mosaic_without_image_header_lies_where_its_protocol_says(corpus: Path) -> None:
    """The reference of dicom2nifti has the same slices in order, but the last at the first tile.

    dicom2nifti takes the position of the mosaic for that of the lowest slice, although these tiles
    begin at the top (ucImageNumbTra is 1). The protocol lists slices from -62.65 to 88.27 mm along
    the normal, and the position of the mosaic is at 88.27. The reference therefore is 49 x 3.08 mm
    too high, outside the scanned volume.
    """
    sitk = pytest.importorskip("SimpleITK")
    folder = corpus / "icometrix+dicom2nifti/tests/data/siemens/fmri"
    image = sitk.ReadImage(str(folder / "001_ground_truth.nii.gz"))
    volumes = sitk.GetArrayFromImage(image)
    for time, name in enumerate(("IM-0001-0001.dcm", "IM-0001-0002.dcm")):
        frames = read_frames(folder / "001" / name)
        np.testing.assert_array_equal(
            np.stack([read_frame(frame) for frame in frames[::-1]]), volumes[time]
        )
        normal = phantoms.slice_normal(frames[0].image_orientation_patient or ())
        np.testing.assert_allclose(
            frames[0].image_position_patient, image.GetOrigin()[:3], atol=1e-4
        )
        step = np.array(frames[0].image_position_patient) - np.array(
            frames[1].image_position_patient
        )
        np.testing.assert_allclose(step, 3.08 * normal, atol=1e-4)
        along = [
            float(np.dot(centre, normal))
            for centre in protocol_slices(_series_header(folder / "001" / name))
        ]
        assert min(along) == pytest.approx(np.dot(_centre(frames[-1]), normal), abs=1e-3)
        assert max(along) == pytest.approx(np.dot(_centre(frames[0]), normal), abs=1e-3)


def _series_header(path: Path) -> bytes:
    return bytes(pydicom.dcmread(path, stop_before_pixels=True)[0x00291020].value)


def _centre(frame: Frame) -> NDArray[np.float64]:
    across, down = np.array(frame.image_orientation_patient).reshape(2, 3)
    between_rows, between_columns = frame.pixel_spacing or (0, 0)
    corner = np.array(frame.image_position_patient)
    return np.asarray(
        corner
        + across * between_columns * (frame.columns - 1) / 2
        + down * between_rows * (frame.rows - 1) / 2
    )


@pytest.mark.corpus
def test_csa_headers_of_the_corpus_read_as_nibabel_reads_them(corpus: Path) -> None:
    csareader = pytest.importorskip("nibabel.nicom.csareader")
    compared = 0
    for folder in (
        "neurolabusc+dcm_qa_stc",
        "neurolabusc+dcm_qa_me",
        "jonclayden+divest",
        "neurolabusc+dcm_qa_nih",
    ):
        for path in sorted((corpus / folder).rglob("*.dcm"))[:40]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                element = pydicom.dcmread(path, stop_before_pixels=True).get(0x00291010)
            if element is None:
                continue
            theirs = csareader.read(bytes(element.value))["tags"]
            for name, values in read_csa(bytes(element.value)).items():
                assert [float(value) for value in values] == [
                    float(item) for item in theirs[name]["items"]
                ], name
                compared += 1
    assert compared > 40

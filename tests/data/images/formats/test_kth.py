"""The KTH actions: videos by person, action and scenario, and the list of the frames that show a person."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sivae import bounds
from sivae.data.images import ImageSet, load_packed, open_images, prepare
from sivae.data.images.formats.kth import ACTIONS, EVERY
from sivae.errors import DamagedImageError, DataError
from tests.data.images.samples import pngs, write_files, write_tar, write_zip

av = pytest.importorskip("av", reason="PyAV reads the videos")


def avi(levels: Iterable[int], *, codec: str = "rawvideo", width: int = 160, height: int = 120) -> bytes:
    """A video of one grey level a frame, at 25 frames a second. Frames of rawvideo keep their exact pixels."""
    content = io.BytesIO()
    pixel_format = "gray" if codec == "rawvideo" else "yuv420p"
    with av.open(content, "w", format="avi") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        for level in levels:
            picture = np.full((height, width), level, np.uint8)
            picture[0, 0] = 255 - level
            frame = av.VideoFrame.from_ndarray(picture, format="gray")
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode(None))
    return content.getvalue()


def name(person: int, action: str = "boxing", scenario: int = 1) -> str:
    return f"person{person:02d}_{action}_d{scenario}_uncomp.avi"


def levels(images: ImageSet) -> list[int]:
    return [int(images.read(index)[60, 80, 0]) for index in range(len(images))]


def contents(images: ImageSet) -> list[int]:
    return [images.content(index) for index in range(len(images))]


@pytest.mark.parametrize("kind", ["folders", "flat", "zip", "tar"])
def test_persons_are_classes_and_actions_contents(tmp_path: Path, kind: str) -> None:
    files = {
        f"walking/{name(1, 'walking', 4)}": avi([10]),
        f"boxing/{name(1, 'boxing', 2)}": avi([20]),
        f"jogging/{name(3, 'jogging')}": avi([30]),
        f"running/{name(7, 'running')}": avi([40]),
    }
    match kind:
        case "zip":
            path = write_zip(tmp_path / "a.zip", files)
        case "tar":
            path = write_tar(tmp_path / "a.tar", files)
        case "flat":
            path = write_files(tmp_path, {file.split("/")[1]: data for file, data in files.items()})
        case _:
            path = write_files(tmp_path, files)
    notices: list[str] = []
    images = open_images(path, notice=notices.append)
    assert any("reading its train images, not the test images" in notice for notice in notices)
    assert images.class_names == ("person 01", "person 03", "person 07")  # of both parts
    assert images.content_names == ACTIONS
    assert levels(images) == [20, 10, 30]  # by name
    assert [images.label(index) for index in range(3)] == [0, 0, 1]
    assert [ACTIONS[content] for content in contents(images)] == ["boxing", "walking", "jogging"]
    test = open_images(path, split="test")
    assert (levels(test), test.label(0), contents(test)) == ([40], 2, [ACTIONS.index("running")])
    assert images.uniform and images.read(0).shape == (120, 160, 1) and images.read(0).dtype == np.uint8
    assert images.read(0)[0, 0, 0] == 235 and images.read(0)[0, 1, 0] == 20


def test_persons_22_to_25_of_a_whole_release_are_the_test_images(tmp_path: Path) -> None:
    path = write_files(tmp_path, {name(person): avi([person]) for person in range(1, 26)})
    assert levels(open_images(path, split="train")) == list(range(1, 22))
    assert levels(open_images(path, split="test")) == [22, 23, 24, 25]


def test_every_fifth_frame_is_taken(tmp_path: Path) -> None:
    path = write_files(tmp_path, {name(1): avi(range(12))}) / name(1)
    assert EVERY == 5 and levels(open_images(path)) == [0, 5, 10]


@pytest.mark.parametrize("separator", ["\t", "  ", "\t\t"])
def test_the_list_names_the_frames_that_show_a_person(tmp_path: Path, separator: str) -> None:
    lines = [
        "The sequences of each video, by frames; a list for person01 and the others.",
        "",
        f"person01_boxing_d1{separator}frames{separator}3-5, 6-8,11-20, ",
        f"person01_boxing_d2{separator}frames{separator}2-2",
        f"person13_handclapping_d3{separator}*missing*",
    ]
    files = {name(1): avi(range(30)), name(1, "boxing", 2): avi(range(50, 53)), name(1, "walking"): avi(range(90, 97))}
    path = write_files(tmp_path, files | {"00sequences.txt": "\r\n".join(lines).encode()})
    images = open_images(path)
    # Frames 3 4 5 6 7 8 11 … 20, of which every fifth from the first on, frame f having level f - 1; then frame 2 of
    # the second; all frames of the third, which the list does not name.
    assert levels(images) == [2, 7, 14, 19, 51, 90, 95]
    assert levels(open_images(path / name(1))) == [2, 7, 14, 19]
    zipped = write_zip(
        tmp_path / "a.zip",
        {"kth/" + file: (path / file).read_bytes() for file in [*files]}
        | {"kth/00sequences.txt": (path / "00sequences.txt").read_bytes()},
    )
    assert levels(open_images(zipped)) == levels(images)


def test_a_line_that_lists_the_same_frames_many_times_is_short(tmp_path: Path) -> None:
    lines = b"person01_boxing_d1 frames " + b"1-1000000, " * 30_000
    path = write_files(tmp_path, {name(1): avi(range(3)), "00sequences.txt": lines})
    assert len(open_images(path)) == 1_000_000 // EVERY


def test_a_list_of_more_frames_than_anybody_films_is_named(tmp_path: Path) -> None:
    lines = [f"person{person}_boxing_d1 frames 1-1000000" for person in range(11, 30)]
    path = write_files(tmp_path, {name(1): avi(range(3)), "00sequences.txt": "\n".join(lines).encode()})
    with pytest.raises(DataError, match=r"line 11 of .*00sequences\.txt: the list has more than 10,000,000 frames"):
        open_images(path)


@pytest.mark.parametrize(
    "frames", ["", "1-x", "5", "0-4", "9-3", "1-5 and on", "1-1000001", "1-99999999999999999999", "-3-4"]
)
def test_a_wrong_line_of_the_list_is_named(tmp_path: Path, frames: str) -> None:
    path = write_files(
        tmp_path, {name(1): avi([1]), "00sequences.txt": b"\nperson01_boxing_d1\tframes\t" + frames.encode()}
    )
    with pytest.raises(DataError, match=r"line 2 of .*00sequences\.txt lists .*; expected ranges of frames such as"):
        open_images(path)


def test_mpeg4_as_the_release_is_compressed(tmp_path: Path) -> None:
    # Levels 40 apart: the codec would have to be off by half of that, 20, for a frame to count as its neighbour.
    shown = [20 + 40 * (index // EVERY % 6) for index in range(60)]
    path = write_files(tmp_path, {name(1): avi(shown, codec="mpeg4")}) / name(1)
    images = open_images(path)
    assert [round((level - 20) / 40) for level in levels(images)] == [0, 1, 2, 3, 4, 5] * 2
    assert [round((int(images.read(index)[9, 9, 0]) - 20) / 40) for index in (7, 2, 11)] == [1, 2, 5]  # in any order


def test_the_square_in_the_middle_is_packed_grey(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {name(1): avi(range(0, 200, 2)), name(2): avi([9] * 6), name(3): avi([7])})
    facts = prepare(path, tmp_path / "out", resolution=8, crop="center", levels=False, progress=False, workers=2)
    assert (facts["count"], facts["channels"], facts["part"]) == (22, 1, "train")
    packed = open_images(tmp_path / "out")
    assert packed.class_names == ("person 01", "person 02", "person 03")
    assert levels_of_packed(packed) == [*range(0, 200, 10), 9, 9]
    assert contents(packed) == [0] * 22 and packed.content_names == ACTIONS
    with pytest.raises(DataError, match=r"frame 1 of .*person01_boxing_d1_uncomp\.avi.* is 160×120 .*--crop center"):
        load_packed(open_images(path), resolution=8, progress=False)


def levels_of_packed(images: ImageSet) -> list[int]:
    return [int(images.read(index)[4, 4, 0]) for index in range(len(images))]


def test_a_video_is_decoded_once_for_all_of_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_images(write_files(tmp_path, {name(1): avi(range(40)), name(2): avi(range(40)), name(3): avi([1])}))
    opened, real = [], av.open
    monkeypatch.setattr(av, "open", lambda *given, **named: (opened.append(1), real(*given, **named))[1])
    assert levels(images) == [*range(0, 40, 5)] * 2
    assert len(opened) == 2


# Damage


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is damaged, or no AVI video"),
        (b"junk" * 1000, "the file is damaged, or no AVI video"),
        (avi(range(9))[:300], "the file is damaged, or no AVI video"),
        (b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n", "the file is damaged, or no AVI video"),
        (avi(range(9), width=320), r"frames are 320×120 \(width × height\); KTH's are 160×120"),
        (avi(range(9), width=4096, height=2048, codec="mpeg4"), "the video cannot be decoded after 0 frames"),
        (avi(range(9)).replace(b"Y800", b"XXXX"), "the video cannot be decoded after 0 frames"),
    ],
)
def test_a_file_that_is_no_such_video_is_a_damaged_image(tmp_path: Path, data: bytes, message: str) -> None:
    path = write_files(tmp_path, {name(1): data, name(2): avi(range(6)), name(3): avi([1])})
    images = open_images(path)
    with pytest.raises(DamagedImageError, match=rf"frame 1 of .*{name(1)}: {message}"):
        images.read(0)
    kept = load_packed(open_images(path, skip_damaged=True), resolution=4, crop="center", progress=False)
    assert kept.array[:, 0, 0, 0].tolist() == [0, 5]
    assert kept.skipped == len(images) - 2 and kept.labels is not None and set(kept.labels.tolist()) == {1}


def test_a_video_unpacks_to_a_bounded_number_of_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_files(tmp_path, {name(1): avi([8] * 600, codec="mpeg4")}) / name(1)
    monkeypatch.setattr(bounds, "ALWAYS_UNPACKED", 1)
    monkeypatch.setattr(bounds, "UNPACKED_RATIO", 10)
    images = open_images(path)
    kept = 10 * path.stat().st_size // (160 * 120)
    assert 0 < kept < len(images) and images.read(kept - 1).shape == (120, 160, 1)
    with pytest.raises(DamagedImageError, match=r": the video unpacks to more than \d+ times its size"):
        images.read(kept)


@pytest.mark.parametrize("codec", ["rawvideo", "mpeg4"])
@pytest.mark.parametrize("damage", ["cut short", "overwritten"])
def test_of_a_damaged_video_the_frames_before_the_damage_are_kept(tmp_path: Path, codec: str, damage: str) -> None:
    data = avi(range(0, 200, 4), codec=codec)
    sound = open_images(write_files(tmp_path / "sound", {name(1): data}) / name(1))
    middle = len(data) * 6 // 10
    rest = (
        b"" if damage == "cut short" else bytes(np.random.default_rng(0).integers(0, 256, len(data) - middle, np.uint8))
    )
    path = write_files(tmp_path, {name(1): data[:middle] + rest}) / name(1)
    images = open_images(path)
    assert len(images) == len(sound) == 10  # the number in its head
    kept = 0
    while kept < 10:
        try:
            image = images.read(kept)
        except DamagedImageError as error:
            assert str(error).startswith(f"frame {1 + 5 * kept} of {path}: the video ")
            break
        # Pixels of rawvideo have no checksum, so a frame with overwritten pixels is still read.
        if damage == "cut short" or codec == "mpeg4":
            assert np.array_equal(image, sound.read(kept))
        kept += 1
    assert 0 < kept < 10
    for index in range(kept, 10):
        with pytest.raises(DamagedImageError):
            images.read(index)


def test_ranges_beyond_the_end_are_damaged_images(tmp_path: Path) -> None:
    lines = b"person01_boxing_d1\tframes\t1-6, 100-104, 999990-1000000"
    path = write_files(tmp_path, {name(1): avi(range(8)), "00sequences.txt": lines})
    images = open_images(path, skip_damaged=True)
    assert levels_until_damage(images) == [0, 5]
    with pytest.raises(DamagedImageError, match=rf"frame 104 of .*{name(1)}: the video ends after 8 frames"):
        images.read(2)
    packed = load_packed(images, resolution=4, crop="center", progress=False)
    assert (len(packed), packed.skipped) == (2, len(images) - 2)


def levels_until_damage(images: ImageSet) -> list[int]:
    found = []
    for index in range(len(images)):
        try:
            found.append(int(images.read(index)[60, 80, 0]))
        except DamagedImageError:
            break
    return found


def test_a_head_that_claims_more_frames_than_the_file_can_hold_is_bounded(tmp_path: Path) -> None:
    data = bytearray(avi(range(6)))
    head = data.index(b"strh") + 8 + 32  # dwLength of AVISTREAMHEADER
    assert int.from_bytes(data[head : head + 4], "little") == 6
    data[head : head + 4] = b"\xff\xff\xff\x7f"
    images = open_images(write_files(tmp_path, {name(1): bytes(data)}) / name(1))
    assert len(images) <= len(data) // 8
    assert levels_until_damage(images) == [0, 5]


# Names and packages


def test_other_videos_are_left_out_with_a_notice(tmp_path: Path) -> None:
    files = {name(1): avi([1]), "person01_dancing_d1_uncomp.avi": b"x", "person1_boxing_d1.avi": b"x"}
    notices: list[str] = []
    assert len(open_images(write_files(tmp_path, files), notice=notices.append)) == 1
    assert any("2 videos without a name of KTH's are left out: person01_dancing" in each for each in notices)


def test_videos_of_other_names_alone_are_unknown(tmp_path: Path) -> None:
    path = write_files(tmp_path, {"person01_boxing_d5_uncomp.avi": avi([1]), "holiday.avi": avi([1])})
    with pytest.raises(DataError, match=r"and no images; what can be read: .*KTH actions \(personPP_"):
        open_images(path)
    assert len(open_images(write_files(tmp_path, pngs(["a.png"])))) == 1


def test_a_doubled_video_is_refused(tmp_path: Path) -> None:
    path = write_files(tmp_path, {f"a/{name(1)}": avi([1]), f"b/{name(1)}": avi([1])})
    with pytest.raises(DataError, match=r"holds person01_boxing_d1 twice, a/person.* and b/person.*; take one away"):
        open_images(path)


def test_without_pyav_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_files(tmp_path, {name(1): avi([1])})
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"cannot be imported here .*: pip install 'soft-intro-vae\[video\]'"):
        open_images(path)

"""Read the KTH actions: 25 persons, each filmed in 6 actions and 4 scenarios, grey, 160×120, 25 frames a second.

Schuldt, Laptev & Caputo, "Recognizing Human Actions: A Local SVM Approach", ICPR 2004. A video is
`personPP_ACTION_dS_uncomp.avi`; `00sequences.txt` lists the frames that show the person:

    person01_boxing_d1    frames    1-95, 96-185, 186-245, 246-360

Frames are counted from 1, and both ends belong to a range. A video that is not listed shows the person in all frames.
Every `EVERY`-th of these frames is an image, beginning with the first, because neighbours are nearly the same.

The class is the person, the content is the action. Parts share no person: the last sixth of the persons, at least one,
are the test images; of all 25 these are persons 22 to 25.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np

from sivae.bounds import UNPACKED_RATIO, unpacked_limit
from sivae.data.images.base import Split
from sivae.data.images.formats.releases import found_parts
from sivae.data.images.formats.sequences import Decoded, Run, SequenceImages, parts_by_class
from sivae.data.images.formats.table import Found, Request
from sivae.data.stores import Store
from sivae.errors import DamagedImageError, DataError, reason_of
from sivae.progress import counting

ACTIONS = ("boxing", "handclapping", "handwaving", "jogging", "running", "walking")
EVERY = 5  # a fifth of a second
_LIST = "00sequences.txt"
_VIDEO = rf"person(?P<person>\d\d)_(?P<action>{'|'.join(ACTIONS)})_d[1-4]"
_FILE = re.compile(rf"(?P<video>{_VIDEO})(_uncomp)?\.avi")
_LINE = re.compile(rf"\s*(?P<video>{_VIDEO})\b(?P<frames>.*)")
_RANGE = re.compile(r"(\d{1,9})\s*-\s*(\d{1,9})")
_WIDTH, _HEIGHT = 160, 120
_LONGEST = 1_000_000  # frames, eleven hours
_MOST_LISTED = 10_000_000  # frames of all videos
_CHUNK_BYTES = 8  # the head of each frame in an AVI file
_MAX_PIXELS = 1 << 20  # of a frame, with the borders that decoders add; no larger frame is allocated


def find(store: Store, only: str | None = None) -> list[Found]:
    """KTH's videos in all folders of a store, by name."""
    videos: dict[str, re.Match[str]] = {}
    others, lists = [], []
    for name in store.sizes:
        own = name.rpartition("/")[2]
        match = _FILE.fullmatch(own)
        if match is not None and only in (None, name):
            videos[name] = match
        elif own.lower().endswith(".avi"):
            others.append(name)
        elif own == _LIST:
            lists.append(name)
    if not videos:
        return []
    persons: dict[str, list[str]] = {}
    for name, match in sorted(videos.items(), key=lambda video: video[1]["video"]):
        persons.setdefault(match["person"], []).append(name)
    parts = parts_by_class(persons, max(1, len(persons) // 6))
    open_part = partial(_open, store, videos, tuple(persons), lists, [] if only else others)
    return [found_parts(f"KTH actions in {store.path}", parts, open_part)]


def _open(
    store: Store,
    videos: dict[str, re.Match[str]],
    persons: tuple[str, ...],
    lists: list[str],
    others: list[str],
    files: list[str],
    part: Split | None,
    request: Request,
) -> SequenceImages:
    _refuse_copies(store, videos)
    _import_av()
    listed = _read_lists(store, lists)
    if others:
        request.notice(f"{store.path}: {len(others):,} videos without a name of KTH's are left out: {others[0]} …")
    runs = []
    unlisted = sum(videos[file]["video"] not in listed for file in files)
    with counting(f"counting the frames of {request.name}", unlisted) as counter:
        for file in files:
            video = videos[file]
            numbers = listed.get(video["video"])
            if numbers is None:
                numbers = np.arange(1, _count_frames(store.read(file)) + 1)
                counter.advance()
            numbers = numbers[::EVERY]
            contents = np.full(len(numbers), ACTIONS.index(video["action"]))
            runs.append(Run(file, persons.index(video["person"]), contents, numbers))
    return SequenceImages(
        store,
        runs,
        partial(_decode, store),
        noun="frame",
        class_names=tuple(f"person {person}" for person in persons),
        content_names=ACTIONS,
        part=part,
        request=request,
    )


def _refuse_copies(store: Store, videos: dict[str, re.Match[str]]) -> None:
    seen: dict[str, str] = {}
    for file, match in videos.items():
        other = seen.setdefault(match["video"], file)
        if other != file:
            raise DataError(f"{store.path} holds {match['video']} twice, {other} and {file}; take one away")


def _read_lists(store: Store, lists: Iterable[str]) -> dict[str, np.ndarray]:
    """Rising frame numbers, int64, by video. Lines that do not begin with a video's name are ignored."""
    listed: dict[str, np.ndarray] = {}
    count = 0
    for name in lists:
        lines = store.read(name).decode(errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            match = _LINE.fullmatch(line)
            if match is None or "missing" in match["frames"]:  # the release lacks one video, as its list says
                continue
            where = f"line {number} of {store.where(name)}"
            frames = listed[match["video"]] = _frames(match["frames"], where)
            count += len(frames)
            if count > _MOST_LISTED:
                raise DataError(f"{where}: the list has more than {_MOST_LISTED:,} frames; fetch the list again")
    return listed


def _frames(text: str, where: str) -> np.ndarray:
    ranges = [(int(first), int(last)) for first, last in _RANGE.findall(text)]
    rest = _RANGE.sub("", text.replace("frames", "", 1)).strip(" \t,;.")
    left = rest.replace(",", "").strip()
    if left or not ranges or any(not 1 <= first <= last <= _LONGEST for first, last in ranges):
        raise DataError(
            f"{where} lists {' '.join(text.split())[:80]!r}; expected ranges of frames such as 1-95, 96-185, counted "
            f"from 1 to at most {_LONGEST:,}"
        )
    listed = np.zeros(max(last for _, last in ranges) + 1, bool)
    for first, last in _joined(ranges):
        listed[first : last + 1] = True
    return np.flatnonzero(listed)


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Rising ranges that do not overlap, with the same numbers: a short line may list the same frames many times."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], last)
        else:
            joined.append((first, last))
    return joined


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise DataError(
            f"KTH's videos are read by PyAV, which cannot be imported here ({error}): "
            "pip install 'soft-intro-vae[video]'"
        ) from None
    return av


def _open_video(content: bytes) -> Any:
    """Open a container, which the caller must close.

    Raises:
        DamagedImageError: it is no AVI file with a video.
    """
    av = _import_av()
    try:
        # The format is fixed, because others, such as playlists, lead to other files and to the network.
        container = av.open(io.BytesIO(content), format="avi")
    except MemoryError:
        raise
    except Exception as error:
        raise DamagedImageError(f"the file is damaged, or no AVI video: {reason_of(error)}") from None
    if not container.streams.video:
        container.close()
        raise DamagedImageError("the file holds no video")
    return container


def _count_frames(content: bytes) -> int:
    """The number of frames as the file states it; 1 for an unreadable file, so that it has one damaged image."""
    try:
        with _open_video(content) as container:
            stream = container.streams.video[0]
            count = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
    except Exception:
        return 1
    return max(1, min(int(count), len(content) // _CHUNK_BYTES, _LONGEST))


def _decode(store: Store, run: Run) -> Decoded:
    wanted = run.numbers
    images: list[np.ndarray] = []
    count = 0
    missing = ""
    content = store.read(run.file)
    most = unpacked_limit(len(content)) // (_WIDTH * _HEIGHT)
    with _open_video(content) as container:
        try:
            stream = container.streams.video[0]
            stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
            for frame in container.decode(stream):
                if frame.is_corrupt:
                    missing = f"the video is damaged at frame {count + 1}"
                    break
                if (frame.width, frame.height) != (_WIDTH, _HEIGHT):
                    missing = f"frames are {frame.width}×{frame.height} (width × height); KTH's are {_WIDTH}×{_HEIGHT}"
                    break
                count += 1
                if count == wanted[len(images)]:
                    images.append(frame.to_ndarray(format="gray"))
                    if len(images) == len(wanted):
                        break
                    if len(images) == most:
                        missing = f"the video unpacks to more than {UNPACKED_RATIO} times its size"
                        break
            else:
                missing = f"the video ends after {count} frames"
        except MemoryError:
            raise
        except Exception as error:  # decoders raise many kinds of errors on damaged files
            missing = f"the video cannot be decoded after {count} frames: {reason_of(error)}"
    pixels = np.stack(images)[:, :, :, None] if images else np.empty((0, _HEIGHT, _WIDTH, 1), np.uint8)
    return Decoded(pixels, missing)

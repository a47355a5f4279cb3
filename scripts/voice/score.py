"""Compares what was heard with what was said: PESQ-WB, STOI, mouth-to-ear, missing speech, the band from 8.5 to 14 kHz."""

import dataclasses

import numpy as np
from pesq import pesq
from pystoi import stoi
from scipy.signal import correlate, resample_poly, sosfilt, butter

from clips import FULLBAND, RATE_HZ, SYNTHETIC, levels_db

WIDEBAND_HZ = 16_000
MS = WIDEBAND_HZ // 1000
# A delay is measured in pieces so long, in steps so long; shorter ones are taken for their neighbours.
PIECE, STEP = 500 * MS, 250 * MS
LONGEST_DELAY = 800 * MS
# Less alike than this and the delay of a piece is not known.
ALIKE = 0.5
FRAME = 20 * MS
# Speech is what is within so many dB of the loudest; it is missing when nothing near it comes within 25 dB.
SPEECH_DB, MISSING_DB = 35, 25


@dataclasses.dataclass
class Score:
    """One clip in one run."""

    clip: str
    pesq: float
    stoi: float
    delays_ms: list
    missing: int
    spoken: int
    band_db: float | None


def wideband(sound):
    return resample_poly(sound, 1, RATE_HZ // WIDEBAND_HZ)


def delays(said, heard):
    """Pairs of a piece's beginning and its delay, where that is known: `heard` begins with `said`, but later."""
    floor = np.sqrt(np.mean(said**2)) / 10
    found = []
    for begin in range(0, len(said) - PIECE + 1, STEP):
        piece = said[begin : begin + PIECE]
        energy = np.sum(piece**2)
        if np.sqrt(energy / PIECE) < floor:
            continue
        window = heard[begin : begin + PIECE + LONGEST_DELAY]
        if len(window) < PIECE + LONGEST_DELAY:
            window = np.pad(window, (0, PIECE + LONGEST_DELAY - len(window)))
        sums = np.concatenate([[0], np.cumsum(window**2)])
        likeness = correlate(window, piece, "valid") / np.sqrt(energy * (sums[PIECE:] - sums[:-PIECE]) + 1e-9)
        best = int(np.argmax(likeness))
        if likeness[best] >= ALIKE:
            found.append((begin, best))
    return found


def delay_at(found, position):
    """The delay of the piece nearest to this place."""
    return min(found, key=lambda pair: abs(pair[0] + PIECE // 2 - position))[1]


def frames_db(sound):
    return levels_db(sound, FRAME)


def missing_speech(said, heard, found):
    """How many frames of speech did not come, and how many there were."""
    levels = frames_db(said)
    gain = np.median([
        frames_db(heard[begin + delay : begin + delay + PIECE]).max() - frames_db(said[begin : begin + PIECE]).max()
        for begin, delay in found
    ])
    spoken = np.flatnonzero(levels > levels.max() - SPEECH_DB)
    missing = 0
    for at in spoken:
        begin = at * FRAME + delay_at(found, at * FRAME)
        near = heard[max(0, begin - FRAME) : begin + 2 * FRAME]
        loudest = frames_db(np.pad(near, (0, FRAME))).max()
        missing += bool(loudest - gain < levels[at] - MISSING_DB)
    return missing, len(spoken)


def utterances(said):
    """Where speech stands between pauses of 200 ms and more."""
    levels = frames_db(said)
    speaks = np.flatnonzero(levels > levels.max() - SPEECH_DB)
    breaks = np.flatnonzero(np.diff(speaks) > 10)
    edges = [0, *((speaks[at] + speaks[at + 1]) // 2 * FRAME for at in breaks), len(said)]
    return list(zip(edges, edges[1:]))


def aligned(said, heard, found):
    """What was heard, each utterance moved to where it was said, for measures that move nothing themselves."""
    sound = np.zeros(len(said))
    for begin, end in utterances(said):
        inside = [delay for at, delay in found if begin <= at + PIECE // 2 < end]
        delay = int(np.median(inside)) if inside else delay_at(found, (begin + end) // 2)
        part = heard[begin + delay : end + delay]
        sound[begin : begin + len(part)] = part
    return sound


def band_db(said, heard):
    """How much more of 8.5 to 14 kHz was heard than said; a gain of the whole voice does not count."""
    band = butter(8, (8_500, 14_000), "bandpass", fs=RATE_HZ, output="sos")
    share = [np.mean(sosfilt(band, sound) ** 2) / np.mean(sound**2) for sound in (heard, said)]
    return 10 * np.log10(share[0] / share[1])


def score(clip, reference, degraded, late_ms=0.0):
    """Scores one clip; both at 48 kHz, and sample 0 of `degraded` was heard `late_ms` after sample 0 of the other was said."""
    said_48 = reference[clip.begin : clip.end]
    heard_48 = degraded[clip.begin : clip.end + RATE_HZ]
    said, heard = wideband(said_48), wideband(heard_48)
    heard = np.pad(heard, (0, max(0, len(said) + LONGEST_DELAY - len(heard))))
    found = delays(said, heard)
    if not found:
        return Score(clip.name, 1.0, 0.0, [], 1, 1, None)
    median = int(np.median([delay for _, delay in found]))
    missing, spoken = missing_speech(said, heard, found)
    try:
        quality = pesq(WIDEBAND_HZ, said, heard[median : median + len(said)], "wb")
    except Exception as error:  # The package's own errors derive from nothing else.
        print(f"pesq of {clip.name}: {error}")
        quality = 1.0
    band = None
    if clip.name == FULLBAND:
        begin = median * RATE_HZ // WIDEBAND_HZ
        band = float(band_db(said_48, heard_48[begin : begin + len(said_48)]))
    return Score(
        clip.name,
        float(quality),
        float(stoi(said, aligned(said, heard, found), WIDEBAND_HZ)),
        [delay / MS + late_ms for _, delay in found],
        missing,
        spoken,
        band,
    )


def human(scores):
    return [each for each in scores if each.clip != SYNTHETIC]

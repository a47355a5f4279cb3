"""The voices that `scripts/bench-voice` sends: short clips of several people, one after the other in one WAV.

Human ones are Debian's (asterisk-core-sounds-*-g722, 16 kHz; alsa-utils, 48 kHz), the synthetic one is telecon's own.
"""

import dataclasses
import json
import pathlib

import av
import numpy as np
import soundfile

RATE_HZ = 48_000
PAUSE_S = 1.0
# Level of speech while somebody speaks, dBFS (ITU-T P.56 measures about that in telephone speech).
SPEECH_DB = -26.0
SHORTEST_S, LONGEST_S = 8.0, 10.0
ASTERISK = pathlib.Path("/usr/share/asterisk/sounds")
ALSA = pathlib.Path("/usr/share/sounds/alsa")
OWN = pathlib.Path(__file__).resolve().parents[2] / "assets/voices"
# The first is the call's beginning, in which everything settles.
SOURCES = {
    "synthetic": sorted(OWN.glob("*.wav")),
    "fr-june": [ASTERISK / "fr_CA_f_June/demo-congrats.g722"],
    "it-carlo": [ASTERISK / "it_IT_m_Carlo/demo-congrats.g722"],
    "es-allison": [ASTERISK / "es_MX_f_Allison/demo-congrats.g722"],
    "ru-ivrvoice": [ASTERISK / "ru_RU_f_IvrvoiceRU/demo-congrats.g722"],
    "alsa-48k": [ALSA / f"{name}.wav" for name in ("Front_Center", "Front_Left", "Rear_Right", "Side_Left", "Rear_Center")],
}
SYNTHETIC, FULLBAND = "synthetic", "alsa-48k"


@dataclasses.dataclass
class Clip:
    """Where a clip stands in the reference, in samples at 48 kHz."""

    name: str
    begin: int
    end: int


def decoded(path):
    """The file as floats, 48 kHz mono."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE_HZ)
    with av.open(str(path)) as container:
        frames = [frame for packet in container.demux(audio=0) for frame in packet.decode()]
        parts = [part.to_ndarray()[0] for frame in [*frames, None] for part in resampler.resample(frame)]
    return np.concatenate(parts)


def levels_db(sound, frame=RATE_HZ // 100):
    """RMS of each 10 ms, dBFS."""
    whole = sound[: len(sound) // frame * frame].reshape(-1, frame)
    return 10 * np.log10(np.mean(whole**2, axis=1) + 1e-12)


def trimmed(sound):
    """Without the silence at both ends."""
    levels = levels_db(sound)
    speaks = np.flatnonzero(levels > levels.max() - 45)
    return sound[speaks[0] * 480 : (speaks[-1] + 1) * 480]


def cut(sound):
    """What fits, cut in the longest pause."""
    if len(sound) <= LONGEST_S * RATE_HZ:
        return sound
    first, last = int(SHORTEST_S * 100), int(LONGEST_S * 100)
    levels = np.convolve(levels_db(sound), np.ones(15) / 15, "same")
    return trimmed(sound[: (first + int(np.argmin(levels[first:last]))) * 480])


def levelled(sound):
    levels = levels_db(sound)
    active = sound[: len(levels) * 480].reshape(-1, 480)[levels > levels.max() - 30]
    return sound * 10 ** (SPEECH_DB / 20) / np.sqrt(np.mean(active**2))


def clip(paths):
    pause = np.zeros(int(0.3 * RATE_HZ))
    parts = [part for path in paths for part in (trimmed(decoded(path)), pause)][:-1]
    return levelled(cut(np.concatenate(parts)))


def make(folder):
    """Writes reference.wav and clips.json; returns the clips."""
    folder.mkdir(parents=True, exist_ok=True)
    pause = np.zeros(int(PAUSE_S * RATE_HZ))
    sound, clips = [pause], []
    for name, paths in SOURCES.items():
        begin = sum(map(len, sound))
        sound += [clip(paths), pause]
        clips.append(Clip(name, begin, begin + len(sound[-2])))
    # At once, since another measurement may be reading it.
    soundfile.write(folder / "new.wav", np.concatenate(sound), RATE_HZ, "PCM_16")
    (folder / "new.wav").replace(folder / "reference.wav")
    (folder / "clips.json").write_text(json.dumps([dataclasses.asdict(each) for each in clips]))
    return clips

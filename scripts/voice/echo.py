"""Two people at once, one of them through the loudspeaker: PESQ-WB of the near one with the echo, and after the echo canceller.

The room is simulated (src/audio/processing/tests.rs): a delay, two reflections, two gains. The far voice is alone for six
seconds, then hardly ever silent.
"""

import datetime

import numpy as np
from pesq import pesq
from scipy.signal import resample_poly

import clips

ALONE_S = 7
GAINS = {"0.1": "−20 dB", "0.3": "−10 dB"}
HUMAN = ("fr-june", "it-carlo", "es-allison", "ru-ivrvoice")


def voices(folder):
    """The near voice, the far one, and where whose words stand in the near one."""
    cut = {name: clips.clip(clips.SOURCES[name]) for name in HUMAN}
    near, places = [np.zeros(ALONE_S * clips.RATE_HZ)], {}
    for name in HUMAN:
        begin = sum(map(len, near))
        places[name] = (begin, begin + len(cut[name]))
        near += [cut[name], np.zeros(clips.RATE_HZ // 2)]
    near = np.concatenate(near)
    # Each is talked over by the next one.
    far = np.concatenate([cut[name] for name in (*HUMAN[1:], HUMAN[0])])
    far = np.tile(far, len(near) // len(far) + 1)[: len(near)]
    for name, sound in ("near", near), ("far", far):
        sound.astype(np.float32).tofile(folder / f"{name}.f32")
    return near, places


def lines(folder, cargo):
    folder.mkdir(parents=True, exist_ok=True)
    near, places = voices(folder)
    cargo("test", "--quiet", "--locked", "--lib", "double_talk_for", "--", "--ignored", TELECON_WAVS=str(folder))
    yield f"{datetime.date.today()}, `make bench-voice VOICE=echo`:\n"
    yield "| Echo against the far voice | PESQ-WB of the near voice with the echo | after the echo canceller | worst clip |"
    yield "|---|---|---|---|"

    def quality(sound, place):
        said, heard = (resample_poly(each[slice(*place)], 1, 3) for each in (near, sound))
        return pesq(16_000, said, heard, "wb")

    for gain, words in GAINS.items():
        before, after = (np.fromfile(folder / f"{name}-{gain}.f32", np.float32) for name in ("microphone", "cleaned"))
        scores = [(quality(before, place), quality(after, place)) for place in places.values()]
        with_echo, cleaned = np.mean(scores, axis=0)
        yield f"| {words} | {with_echo:.2f} | {cleaned:.2f} | {min(each for _, each in scores):.2f} |"

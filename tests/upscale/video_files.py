"""Small videos for the tests, out of FFmpeg's test sources, and a network that repeats pixels."""

from __future__ import annotations

import contextlib
from fractions import Fraction

from sr_deploy.upscale.video_encode import CODECS


@contextlib.contextmanager
def repeatable():
    """Have libx264 make the same bytes of the same frames.

    With its macroblock tree on a CPU with AVX-512 it sometimes does not: up to one run in eight
    under load, with any number of threads. With `mbtree=0` or `asm=avx2` it always does, and also
    if the C library fills the memory that it allocates.
    """
    before = CODECS["libx264"]
    CODECS["libx264"] = (before[0], {**before[1], "x264-params": "mbtree=0"})
    try:
        yield
    finally:
        CODECS["libx264"] = before


class Repeat:
    """Stands in for an Upscaler: each pixel is repeated."""

    identity = "repeat"

    def __init__(self, scale=2, before=lambda n: None, ahead=0):
        """ahead: the frames that are begun before one is finished, as on a GPU."""
        self.scale, self._ahead = scale, ahead
        self.seen = []
        self._before = before

    def plan(self, hw):
        pass

    def __call__(self, rgb):
        self._before(len(self.seen))
        self.seen.append(rgb)
        return rgb.repeat(self.scale, 0).repeat(self.scale, 1)

    def frames(self, images):
        waiting = []
        for image in images:
            waiting.append(self(image))
            if len(waiting) > self._ahead:
                yield waiting.pop(0)
        yield from waiting


def make_video(
    path,
    frames=30,
    *,
    size="32x24",
    rate=25,
    codec="libx264",
    pix_fmt="yuv420p",
    options=None,
    times=None,
    sound=False,
    container_options=None,
    prepare=lambda container, context: None,
    subtitles=None,
):
    """Write a video of testsrc2.

    times: of the frames, in ms. sound: add a sine in AAC, or in the codec of this name.
    prepare: sets up container and context.
    """
    import av

    width, height = map(int, size.split("x"))
    with av.open(f"testsrc2=size={size}:rate={rate}", format="lavfi") as source:
        with av.open(str(path), "w", container_options=container_options or {}) as out:
            video = out.add_stream(codec, rate=rate)
            context = video.codec_context
            context.width, context.height, context.pix_fmt = width, height, pix_fmt
            context.time_base = Fraction(1, 1000) if times else Fraction(1, rate)
            context.options = dict(options or {})
            prepare(out, context)
            copied = None
            if subtitles is not None:
                subtitles = av.open(str(subtitles))
                template = subtitles.streams[0]
                copied = (
                    out.add_stream_from_template(template)
                    if hasattr(out, "add_stream_from_template")
                    else out.add_stream(template=template)
                )
            audio = None
            if sound:
                audio = out.add_stream("aac" if sound is True else sound, rate=48000)
                audio.codec_context.bit_rate = 64000
            for n, frame in enumerate(source.decode(video=0)):
                if n == frames:
                    break
                frame = frame.reformat(format=pix_fmt)
                frame.pts, frame.time_base = (times[n] if times else n), context.time_base
                for packet in video.encode(frame):
                    out.mux(packet)
            for packet in video.encode(None):
                out.mux(packet)
            if audio is not None:
                with av.open(
                    f"sine=frequency=440:sample_rate=48000:duration={frames / rate}", format="lavfi"
                ) as sine:
                    for frame in sine.decode(audio=0):
                        for packet in audio.encode(frame):
                            out.mux(packet)
                    for packet in audio.encode(None):
                        out.mux(packet)
            if copied is not None:
                for packet in subtitles.demux():
                    if packet.dts is not None:
                        packet.stream = copied
                        out.mux(packet)
                subtitles.close()
    return path


def streams_of(path):
    """Return each stream's type, packets as (seconds, bytes) in file order, and metadata."""
    import av

    with av.open(str(path)) as container:
        found = {
            s.index: {"type": s.type, "packets": [], "metadata": dict(s.metadata)}
            for s in container.streams
        }
        for packet in container.demux():
            if packet.pts is not None:
                found[packet.stream_index]["packets"].append(
                    (packet.pts * packet.time_base, bytes(packet))
                )
    return list(found.values())


def frames_of(path):
    """Return the decoded frames as [(seconds, RGB array)]."""
    from sr_deploy.upscale.video_source import probe_video, read_frames

    facts = probe_video(path)
    return [(pts * facts.time_base, rgb) for pts, rgb in read_frames(path, facts)]

"""What BenchmarkAgainstPyAV (video/bench_test.go) compares with: frames of a video by PyAV, to 112x112 RGB.

    /usr/bin/python3 decode.py FILE

Debian's python3-av is enough: apt-get install --no-install-recommends python3-av. One thread decodes, FFmpeg's scaler
brings the shorter side to 112 pixels and to RGB in one pass, and the middle is cut out: the fastest way there is in
PyAV. Prints one JSON object: frames, and the processor seconds they took, without Python's start.
"""
import json
import sys
import time

import av

SIZE = 112


def frames(path):
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        for frame in container.decode(stream):
            short = min(frame.width, frame.height)
            width, height = round(frame.width * SIZE / short), round(frame.height * SIZE / short)
            whole = frame.reformat(width, height, "rgb24", interpolation="BILINEAR").to_ndarray()
            top, left = (height - SIZE) // 2, (width - SIZE) // 2
            yield whole[top:top + SIZE, left:left + SIZE].copy()


def main():
    av.logging.set_level(av.logging.PANIC)
    began, count = time.process_time(), 0
    for frame in frames(sys.argv[1]):
        assert frame.shape == (SIZE, SIZE, 3)
        count += 1
    print(json.dumps({"frames": count, "cpu_s": time.process_time() - began, "pyav": av.__version__}))


if __name__ == "__main__":
    main()

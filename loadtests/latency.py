"""End-to-end latency of single edits through HTTP, and the time until the service is ready.

python -m loadtests.latency [--url http://127.0.0.1:8000] [--size 512] [-n 5]
"""

import json
import math
import statistics
import time

from loadtests.target import connect, damaged_photo, options_parser, service_under_test

SENTENCES = {
    "derain": "Please remove the rain",
    "desnow": "remove the snow",
    "dehaze": "clear the haze",
    "lowlight": "too dark, brighten it",
}


def measure(url: str, image: bytes, instruction: str, num_edits: int) -> list[float]:
    """Seconds of every edit, one after the other, after one that warms up."""
    seconds = []
    with connect(url) as client:
        client.edit(image, instruction)
        for _ in range(num_edits):
            started = time.monotonic()
            result = client.edit(image, instruction)
            seconds.append(time.monotonic() - started)
            assert not result.no_op, f"no plugin was found for {instruction!r}"
    return seconds


def main() -> None:
    parser = options_parser("Latency of one edit at a time, with default steps.")
    parser.add_argument("--task", choices=SENTENCES, default="derain")
    parser.add_argument("-n", type=int, default=5, help="number of timed edits")
    options = parser.parse_args()
    image = damaged_photo(options.task, options.size)
    with service_under_test(options.url, options.log) as service:
        seconds = measure(service.url, image, SENTENCES[options.task], options.n)
    report = {
        "task": options.task,
        "size": options.size,
        "num_edits": options.n,
        "median_s": round(statistics.median(seconds), 3),
        "min_s": round(min(seconds), 3),
        "max_s": round(max(seconds), 3),
        "ready_s": None if math.isnan(service.ready_s) else round(service.ready_s, 2),
    }
    print(json.dumps(report, indent=2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

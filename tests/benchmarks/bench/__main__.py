"""``python -m bench``: measure rows, print a table, write JSON."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.about import about
from bench.every import every
from bench.measure import COUNTED, ROUNDS, wanted
from bench.report import Results, stated, table, write
from bench.runner import measure
from bench.stage import find_image, staged


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 where a row failed, 130 when it was interrupted."""
    rows = {row.name: row for row in every()}
    options = _options(argv)
    if options.list:
        print("".join(f"{row.name:18}{row.what}\n" for row in rows.values()), end="")
        return 0
    try:
        names = wanted(list(rows), options.row)
        image = find_image(options.image)
    except (ValueError, LookupError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    results = Results({}, [])
    code = 0
    try:
        with staged(image, pool=options.pool, driver=options.driver) as stage:
            results.about = about(stage.pool, image)
            for name in names:
                row = measure(rows[name], stage, options.rounds, options.counted, _say)
                _say("")
                results.rows.append(row)
                write(options.json, results)
                drawn = table(results.rows).splitlines()
                print(
                    *(drawn[-1:] if row.error else drawn[len(results.rows) :][:1]), file=sys.stderr
                )
    except KeyboardInterrupt:
        print("interrupted; nothing is left", file=sys.stderr)
        code = 130
    if results.rows:
        print(f"{stated(results.about)}\n{table(results.rows)}", end="")
        print(f"written: {options.json}", file=sys.stderr)
    return code or int(any(row.error for row in results.rows))


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("tests/run --benchmarks", description=__doc__)
    add = parser.add_argument
    add("row", nargs="*", help="names, or how they begin (list, push); default: all")
    add("--list", action="store_true", help="the rows, and nothing is measured")
    add("--rounds", type=_positive, default=ROUNDS, help="timed, of each side (%(default)s)")
    add("--counted", type=_positive, default=COUNTED, help="counted, of coi (%(default)s)")
    add("--image", default="", help="with the dummy tool in it; default: coi, else coi-test")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--pool", default="", help="of Incus; default: the default profile's")
    where.add_argument("--driver", default="", help="make a pool of it for the run: dir")
    add("--json", type=Path, default=Path("benchmarks.json"), help="where to (%(default)s)")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)


def _say(text: str) -> None:
    """On one line of a terminal; a log has no use for it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

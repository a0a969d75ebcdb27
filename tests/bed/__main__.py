"""`python -m tests.bed`: a region to try by hand, until Ctrl-C or the end of what is typed."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from contextlib import suppress

from .region import open_region
from .sshd import NoOpenSSH


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bed", description=__doc__)
    parser.add_argument("--hosts", type=int, default=1, help="how many (1)")
    parser.add_argument("--boot-seconds", type=float, default=0.0, help="how long each takes to boot, at least (0)")
    args = parser.parse_args()
    # A shell that starts this in the background hands on an ignored SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    began = time.monotonic()
    try:
        with open_region() as region, suppress(KeyboardInterrupt):
            hosts = region.add(args.hosts, boot_seconds=args.boot_seconds)
            print(f"{len(hosts)} hosts after {time.monotonic() - began:.1f} s. Try:", file=sys.stderr)
            for host in hosts:
                print(f"ssh -F {region.config} {host.name}   # {host.address}", flush=True)
            for trait, why in region.missing.items():
                print(f"left out: {trait}, since {why}", file=sys.stderr)
            print("They end with Ctrl-C, or with the end of the input.", file=sys.stderr)
            while sys.stdin.readline():
                pass
    except NoOpenSSH as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Results in the Test Anything Protocol, as meson reads them."""

import signal
import sys
import time
import traceback

from image import Unavailable


class Failed(Exception):
    pass


def expect(condition, text):
    if not condition:
        raise Failed(text)


class Tap:
    """Each method of the suite whose name starts with test_ is one result, in the order of the source."""

    def __init__(self):
        self.n, self.n_failed = 0, 0

    def case(self, name, function):
        began = time.monotonic()
        self.n += 1
        try:
            function()
        except Exception as e:
            self.n_failed += 1
            print(f"not ok {self.n} - {name}", flush=True)
            text = str(e) if isinstance(e, Failed) else traceback.format_exc()
            for line in text.rstrip().splitlines():
                print(f"# {line}", flush=True)
        else:
            print(f"ok {self.n} - {name} ({time.monotonic() - began:.1f} s)", flush=True)

    def note(self, text):
        for line in str(text).splitlines():
            print(f"# {line}", flush=True)

    def end(self):
        print(f"1..{self.n}", flush=True)
        sys.exit(1 if self.n_failed else 0)


def main(function):
    """Runs function(tap); a machine that can't run VMs skips, saying why."""
    tap = Tap()
    # A time-out of the test runner ends the test through its cleanup.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        function(tap)
    except Unavailable as e:
        print(f"1..0 # SKIP {e}", flush=True)
        sys.exit(0)
    tap.end()

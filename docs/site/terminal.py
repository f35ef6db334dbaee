"""Draws what a command shows on a terminal of 80 x 24, as it stands when something is seen: a picture for these pages.

`docs/site/terminal.py FOLDER NAME=PATTERN ... -- COMMAND ...`, with pyte and rich, writes FOLDER/terminal-NAME.svg for the
first screen on which each regular expression is found, else for the last; NAME=^C:PATTERN presses Ctrl-C and draws the last.
"""

import fcntl
import io
import os
import pty
import re
import signal
import struct
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pyte
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

COLUMNS, LINES = 80, 24
#: The fonts of the reader's machine: nothing is loaded from elsewhere.
FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
THEME = TerminalTheme((41, 44, 51), (217, 221, 228), [(41, 44, 51), (224, 108, 117), (152, 195, 121), (229, 192, 123),
    (97, 175, 239), (198, 120, 221), (86, 182, 194), (171, 178, 191)], [(110, 118, 135), (241, 113, 140), (152, 195, 121),
    (229, 192, 123), (97, 175, 239), (198, 120, 221), (86, 182, 194), (255, 255, 255)])  # fmt: skip


def screens(command: list[str], press: re.Pattern | None) -> Iterator[pyte.Screen]:
    """Run a command in a terminal; yield its screen after everything that it writes."""
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    while True:
        try:
            stream.feed(os.read(terminal, 65536))
        except OSError:  # the command has ended
            os.waitpid(child, 0)
            return
        yield screen
        if press is not None and press.search("\n".join(screen.display)):
            os.write(terminal, b"\x03")
            press = None


def lines(screen: pyte.Screen) -> list[Text]:
    """Return the screen's lines with their colours, to the last that is not empty."""
    found = []
    for row in range(LINES):
        text = Text()
        for column in range(COLUMNS):
            cell = screen.buffer[row][column]
            style = " ".join(["bold"] * cell.bold + [STYLES.get(cell.fg, "default")])
            text.append(cell.data, style)
        text.rstrip()
        found.append(text)
    while found and not found[-1].plain.strip():
        found.pop()
    return found


#: What pyte calls the colours that rich uses in a terminal of 16.
STYLES = {"red": "red", "green": "green", "brightred": "bright_red", "brightblack": "bright_black", "brightbrown": "yellow"}


def draw(path: Path, title: str, shown: list[Text]) -> None:
    """Write the picture."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    for line in shown:
        console.print(line, no_wrap=True, overflow="crop")
    svg = FONTS.sub("", console.export_svg(title=title, theme=THEME, unique_id=path.stem))
    path.write_text(svg.replace("Fira Code", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono"), encoding="utf-8")


def main(folder: str, *words: str) -> None:
    """Read the command line, run its command, and write a picture for each pattern."""
    cut = words.index("--")
    patterns, command = dict(word.split("=", 1) for word in words[:cut]), list(words[cut + 1 :])
    pressed = next((name for name, pattern in patterns.items() if pattern.startswith("^C:")), None)
    press = re.compile(patterns.pop(pressed).removeprefix("^C:")) if pressed else None
    shown: list[Text] = []
    for screen in screens(command, press):
        shown = lines(screen) or shown
        for name in [name for name, pattern in patterns.items() if re.search(pattern, "\n".join(screen.display))]:
            del patterns[name]
            draw(Path(folder) / f"terminal-{name}.svg", " ".join(command), shown)
    for name in [*patterns, *([pressed] if pressed else [])]:
        draw(Path(folder) / f"terminal-{name}.svg", " ".join(command), shown)


if __name__ == "__main__":
    main(*sys.argv[1:])

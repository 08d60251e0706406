#!/usr/bin/env bash
# Writes the demo's corpus: the six novels of Jane Austen (3.9 MB of English prose, public domain) from the Debian
# package r-cran-janeaustenr. The package is downloaded and unpacked into a temporary folder, never installed; R is not
# needed. Same package, same bytes out.
#   scripts/corpus.sh OUTPUT            fetch with apt-get download
#   scripts/corpus.sh OUTPUT FILE.deb   use a package that is already here
set -euo pipefail

package=r-cran-janeaustenr
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
  echo "usage: scripts/corpus.sh OUTPUT [FILE.deb]" >&2
  exit 2
fi
output=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ $# -eq 2 ]; then
  cp "$2" "$work/"
else
  # World-readable, so that apt's own unprivileged user may write the download.
  chmod 755 "$work"
  chown _apt "$work" 2>/dev/null || true
  fetch() { (cd "$work" && apt-get download -qq "$package" >&2); }
  # A fresh container has no package index yet; only root may fetch one.
  fetch || { [ "$(id -u)" -eq 0 ] && apt-get update -qq >&2 && fetch; } || {
    echo "corpus: cannot download $package" >&2
    echo "  where: apt-get download on this machine" >&2
    echo "  why: no package index, no network, or not Debian" >&2
    echo "  fix: run 'apt-get update' as root, or give a .deb file as the second argument" >&2
    exit 3
  }
fi
deb=$(ls "$work"/*.deb)
dpkg-deb -x "$deb" "$work/root"

python3 - "$work/root/usr/lib/R/site-library/janeaustenr/data" "$output" <<'PYTHON'
"""Reads R's lazy-load database (a .rdx index, zlib of R's XDR serialization, and .rdb records: 4 bytes length, zlib)."""
import os
import struct
import sys
import zlib

# In order of publication; the contiguous held-out tail is then prose of the author's last novel.
NOVELS = ("sensesensibility", "prideprejudice", "mansfieldpark", "emma", "northangerabbey", "persuasion")
PAIRLIST_END, SYMBOL, PAIRLIST, STRING, LOGICAL, INTEGER, STRINGS, LIST, REFERENCE = 254, 1, 2, 9, 10, 13, 16, 19, 255


class Serialized:
    """The few types of R's format 2 and 3 that the database uses; anything else is an error."""

    def __init__(self, data):
        self.data, self.at, self.symbols = data, 0, []
        if self.take(2) != b"X\n":
            raise ValueError("not R's XDR serialization")
        version = self.integer()
        self.take(8)
        if version == 3:
            self.take(self.integer())

    def take(self, count):
        self.at += count
        return self.data[self.at - count:self.at]

    def integer(self):
        return struct.unpack(">i", self.take(4))[0]

    def item(self):
        flags = self.integer() & 0xFFFFFFFF
        kind, attributes = flags & 0xFF, flags & 0x200
        if kind == PAIRLIST_END:
            return None
        if kind == REFERENCE:
            return self.symbols[(flags >> 8) - 1]
        if kind == SYMBOL:
            self.symbols.append(self.item())
            return self.symbols[-1]
        if kind == STRING:
            length = self.integer()
            return "" if length < 0 else self.take(length).decode("utf-8", errors="strict")
        if kind == PAIRLIST:
            tag, value, rest = self.item(), self.item(), self.item()
            return {tag: value} | (rest or {})
        count = self.integer()
        if kind in (LOGICAL, INTEGER):
            values = [self.integer() for _ in range(count)]
        elif kind in (STRINGS, LIST):
            values = [self.item() for _ in range(count)]
        else:
            raise ValueError(f"R type {kind} is not expected here")
        names = (self.item() if attributes else {}).get("names")
        return dict(zip(names, values)) if names else values


def read_novel(base, location):
    offset, length = location
    with open(base + ".rdb", "rb") as file:
        file.seek(offset)
        record = file.read(length)
    data = zlib.decompress(record[4:])
    if len(data) != struct.unpack(">I", record[:4])[0]:
        raise ValueError("damaged record")
    return Serialized(data).item()


PLAIN = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "--",
                       "\u00a0": " ", "\u2026": "...", "\u00a3": "L", "\u00e9": "e", "\u00e8": "e", "\u00ea": "e",
                       "\u00e0": "a", "\u00e2": "a", "\u00ef": "i", "\u00e7": "c", "\u00f4": "o", "\u00fc": "u",
                       "\u00c6": "AE", "\u00e6": "ae", "\u0153": "oe", "\ufeff": ""})


def clean(lines):
    """Hard-wrapped lines become one line a paragraph; emphasis marks go; the rest is ASCII."""
    paragraphs, words = [], []
    for line in lines + [""]:
        line = line.translate(PLAIN).replace("_", "").strip()
        if line:
            words += line.split()
        elif words:
            paragraphs.append(" ".join(words))
            words = []
    text = "\n\n".join(paragraphs) + "\n"
    foreign = sorted({character for character in text if not " " <= character <= "~" and character != "\n"})
    if foreign:
        raise ValueError(f"characters without a plain form: {foreign}")
    return text


def main():
    base = os.path.join(sys.argv[1], "Rdata")
    with open(base + ".rdx", "rb") as file:
        index = Serialized(zlib.decompress(file.read(), 47)).item()["variables"]  # 47: gzip or zlib header
    text = "\n\n".join(clean(read_novel(base, index[novel])) for novel in NOVELS)
    temporary = sys.argv[2] + ".part"
    with open(temporary, "w", encoding="ascii", newline="\n") as file:
        file.write(text)
    os.replace(temporary, sys.argv[2])


main()
PYTHON

version=$(dpkg-deb -f "$deb" Version)
echo "corpus: $output"
echo "  text      six novels of Jane Austen (1811-1818)"
echo "  package   $package $version (Debian)"
echo "  licence   text in the public domain; package MIT, copyright 2016-2017 Julia Silge"
echo "  size      $(stat -c %s "$output") bytes, $(wc -w <"$output") words"
echo "  sha256    $(sha256sum "$output" | cut -d' ' -f1)"

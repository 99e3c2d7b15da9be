"""Keeps the few inputs that together reach the most, as libFuzzer's control file of a merge tells."""

import hashlib
import pathlib
import sys

INPUTS_MAX = 32
BYTES_MAX = 18 << 10

control, folder = sys.argv[1], pathlib.Path(sys.argv[2])
lines = pathlib.Path(control).read_text().splitlines()
count = int(lines[0])
names = lines[2 : 2 + count]
reached = {}
for line in lines[2 + count :]:
    kind, *numbers = line.split()
    if kind == "FT":
        reached[names[int(numbers[0])]] = set(numbers[1:])

contents = {name: pathlib.Path(name).read_bytes() for name in reached}
kept, seen, room = {}, set(), BYTES_MAX
while len(kept) < INPUTS_MAX:
    fitting = [name for name in reached if len(contents[name]) <= room]
    best = max(fitting, key=lambda n: (len(reached[n] - seen), -len(contents[n])), default=None)
    if best is None or not reached[best] - seen:
        break
    seen |= reached.pop(best)
    room -= len(contents[best])
    kept[hashlib.sha1(contents[best]).hexdigest()[:16]] = contents[best]

for file in folder.iterdir():
    file.unlink()
for name, content in kept.items():
    (folder / name).write_bytes(content)
print(f"{folder.name}: {len(kept)} inputs of {BYTES_MAX - room} bytes reach {len(seen)} features")

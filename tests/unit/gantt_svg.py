#!/usr/bin/env python3
"""Reads a Gantt chart as XML and compares its boxes with a table of `x width tooltip` lines.

    gantt_svg.py CHART.svg TABLE
"""
import sys
import xml.etree.ElementTree as tree

SVG = "{http://www.w3.org/2000/svg}"


def main():
    root = tree.parse(sys.argv[1]).getroot()
    if root.tag != SVG + "svg":
        return f"the root is {root.tag}"
    boxes = []
    for group in root.iter(SVG + "g"):
        (box,) = [rect for rect in group.iter(SVG + "rect") if rect.get("class") == "action"]
        boxes.append((float(box.get("x")), float(box.get("width")), group.find(SVG + "title").text.split(":")[0]))
    with open(sys.argv[2], encoding="utf-8") as table:
        wanted = [(float(x), float(width), name) for x, width, name in map(str.split, table)]
    if len(boxes) != len(wanted):
        return f"{len(boxes)} boxes, {len(wanted)} actions"
    for box, want in zip(boxes, wanted):
        # Numbers are written with three digits after the point.
        if box[2] != want[2] or abs(box[0] - want[0]) > 0.002 or abs(box[1] - want[1]) > 0.002:
            return f"box {box}, action {want}"
    width = float(root.get("width"))
    outside = [box for box in boxes if box[0] < 0 or box[0] + box[1] > width]
    return f"outside of the picture: {outside}" if outside else None


if __name__ == "__main__":
    sys.exit(main())

"""The plot is an SVG that says what the table says."""

import xml.etree.ElementTree as ET

from benchmarks.plot import BAR_WIDTH, LONGEST, svg
from benchmarks.report import Results, Row, Sample

SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_ratios_to_nginx_and_long_ones_are_cut_off() -> None:
    values = {"direct": 1.0, "nginx": 10.0, "wsgate": 20.0, "aiohttp relay": 1000.0}
    samples = [Sample("idle", subject, 0, value) for subject, value in values.items()]
    plot = svg(Results({}, [Row("idle", "idle & <quiet>", "KiB"), Row("other", "never measured", "s")], list(values), samples, []))
    root = ET.fromstring(plot)
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "idle & <quiet> (KiB)" in texts
    assert "never measured (s)" not in texts
    bars = [
        float(rect.attrib["width"])
        for rect in root.iter(f"{SVG}rect")
        if rect.attrib["height"] == "10" and float(rect.attrib["width"]) > 10
    ]
    assert bars == [round(BAR_WIDTH / LONGEST, 1), round(2 * BAR_WIDTH / LONGEST, 1), float(BAR_WIDTH)]
    assert "100" in texts

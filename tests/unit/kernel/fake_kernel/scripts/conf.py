"""conf.py TOP ALLCONFIG: a symbol gets what is asked for when what it depends on is set; selected ones are on."""

import re
import sys
from pathlib import Path

top, asked = Path(sys.argv[1]), Path(sys.argv[2]).read_text()
wanted = dict(re.findall(r"^CONFIG_(\w+)=(.*)$", asked, re.M))
entries = re.findall(r"^config (\w+)\n((?:\t.*\n?)*)", (top / "Kconfig").read_text(), re.M)
config: dict[str, str] = {}
for _ in entries:
    for symbol, body in entries:
        needs = re.findall(r"depends on (\w+)", body)
        if symbol in wanted and all(config.get(need) == "y" for need in needs):
            config[symbol] = wanted[symbol]
    for symbol, body in entries:
        if config.get(symbol) == "y":
            config |= dict.fromkeys(re.findall(r"select (\w+)", body), "y")
text = "".join(f"CONFIG_{symbol}={value}\n" for symbol, value in sorted(config.items()))
path = Path(".config")
if not path.exists() or path.read_text() != text:
    path.write_text(text)

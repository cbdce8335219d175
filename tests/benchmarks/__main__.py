"""``python -m tests.benchmarks [name …]``: run the named benchmarks, or all."""

from __future__ import annotations

import importlib
import pkgutil
import sys

from tests import benchmarks

names = [each.name for each in pkgutil.iter_modules(benchmarks.__path__) if each.name not in ("__main__", "measure")]
chosen = sys.argv[1:] or names
unknown = sorted(set(chosen) - set(names))
if unknown:
    sys.exit(f"no benchmark is named {', '.join(unknown)}; there are: {', '.join(names)}")
for name in chosen:
    print(f"== {name}")
    importlib.import_module(f"tests.benchmarks.{name}").main()
